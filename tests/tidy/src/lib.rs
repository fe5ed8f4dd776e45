//! The house rules that a machine can check (see `STYLE.md`), as pure functions over a file's text.

/// What a file does against the rules: line (from 1) and a sentence that says what to do.
pub fn complaints(path: &str, text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    let name = path.rsplit('/').next().unwrap_or(path);
    if lines.len() > 600 {
        found.push((
            600,
            format!(
                "{} lines: split the file by concept; 600 is the end",
                lines.len()
            ),
        ));
    }
    if matches!(
        name,
        "mod.rs"
            | "utils.rs"
            | "util.rs"
            | "helpers.rs"
            | "common.rs"
            | "misc.rs"
            | "manager.rs"
            | "types.rs"
    ) {
        found.push((
            1,
            "name the file after its concept, in the field's own word".into(),
        ));
    }
    if !lines.iter().take(5).any(|l| l.starts_with("//!")) {
        found.push((
            1,
            "open with `//!`: what the file is for and what it must never do".into(),
        ));
    }
    let is_test = path.starts_with("tests/")
        || path.contains("/tests/")
        || path.contains("/examples/")
        || path.contains("/benches/")
        || matches!(name, "tests.rs" | "testing.rs")
        || name.ends_with("_tests.rs")
        || name == "suite.rs";
    let tests_from = lines
        .iter()
        .position(|l| l.trim() == "#[cfg(test)]")
        .unwrap_or(lines.len());
    if is_test {
        return found;
    }
    for (i, line) in lines.iter().enumerate().take(tests_from) {
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        let mut complain = |what: &str| found.push((i + 1, what.to_owned()));
        if code.contains(".unwrap()") {
            complain(
                "`unwrap()` outside tests: return the error, or `expect(\"why it cannot fail\")`",
            );
        }
        if code.contains("todo!(") || code.contains("unimplemented!(") {
            complain("answer with a clear error instead, and list the gap in docs/status.md");
        }
        // A build script speaks to cargo by printing.
        if code.contains("println!(") && !path.starts_with("deploy/") && name != "build.rs" {
            complain("libraries log with `tracing`; only the program prints");
        }
        let spawns = [
            "tokio::spawn(",
            "task::spawn(",
            "thread::spawn(",
            "runtime.spawn(",
            "spawn_on(",
        ]
        .iter()
        .any(|s| code.contains(s));
        if spawns && name != "tasks.rs" && name != "main.rs" {
            complain("tasks are started in `tasks.rs`, where their owner and end can be seen");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::complaints;

    #[test]
    fn each_rule_finds_its_breach_and_nothing_else() {
        let clean = "//! A file.\nfn f() {}\n#[cfg(test)]\nmod tests { fn t() { x.unwrap(); } }\n";
        for (path, text, expected) in [
            ("a/src/lease.rs", clean.to_owned(), ""),
            ("a/src/utils.rs", clean.to_owned(), "name the file"),
            ("a/src/lease.rs", "fn f() {}\n".to_owned(), "open with"),
            (
                "a/src/lease.rs",
                "//! x\nfn f() { x.unwrap(); }\n".to_owned(),
                "`unwrap()`",
            ),
            ("a/src/lease.rs", "//! x\n// x.unwrap()\n".to_owned(), ""),
            (
                "tests/a/src/lease.rs",
                "//! x\nfn f() { x.unwrap(); }\n".to_owned(),
                "",
            ),
            (
                "a/src/lease.rs",
                "//! x\nfn f() { todo!() }\n".to_owned(),
                "answer with",
            ),
            (
                "a/src/lease.rs",
                "//! x\nfn f() { println!() }\n".to_owned(),
                "libraries log",
            ),
            (
                "deploy/src/lease.rs",
                "//! x\nfn f() { println!() }\n".to_owned(),
                "",
            ),
            (
                "a/src/lease.rs",
                "//! x\nfn f() { tokio::spawn(x) }\n".to_owned(),
                "tasks are started",
            ),
            (
                "a/src/lease.rs",
                "//! x\nfn f() { runtime.spawn(x) }\n".to_owned(),
                "tasks are started",
            ),
            (
                "a/src/lease.rs",
                "//! x\nfn f() { tracker.spawn_on(x, &y) }\n".to_owned(),
                "tasks are started",
            ),
            (
                "a/src/tasks.rs",
                "//! x\nfn f() { tokio::spawn(x) }\n".to_owned(),
                "",
            ),
            (
                "a/src/lease.rs",
                format!("//! x\n{}", "\n".repeat(600)),
                "601 lines",
            ),
        ] {
            let found = complaints(path, &text);
            let said = found.first().map_or("", |(_, what)| what.as_str());
            assert!(
                said.starts_with(expected) && found.is_empty() == expected.is_empty(),
                "{path}: {said:?}, not {expected:?}"
            );
        }
    }
}
