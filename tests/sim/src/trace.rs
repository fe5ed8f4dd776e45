//! Everything that happens, line by line with its simulated time: hashed, so that two runs can be compared, and the
//! end of it kept for whoever must understand a failure.

use std::collections::VecDeque;
use std::fmt::Arguments;
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

/// Lines kept to be shown after a failure.
const KEPT: usize = 400;

pub struct Trace {
    hash: DefaultHasher,
    lines: u64,
    last: VecDeque<String>,
    print: bool,
}

impl Trace {
    pub fn new(print: bool) -> Self {
        Trace {
            hash: DefaultHasher::new(),
            lines: 0,
            last: VecDeque::new(),
            print,
        }
    }

    pub fn line(&mut self, at: Duration, what: Arguments<'_>) {
        let line = format!("{:>10.3} ms  {what}", at.as_secs_f64() * 1e3);
        self.hash.write(line.as_bytes());
        self.lines += 1;
        if self.print {
            println!("{line}");
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    pub fn lines(&self) -> u64 {
        self.lines
    }

    pub fn last(&self) -> impl Iterator<Item = &String> {
        self.last.iter()
    }
}
