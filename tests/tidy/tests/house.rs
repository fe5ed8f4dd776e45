//! Every source file of the workspace keeps the house rules.

use std::path::{Path, PathBuf};

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, into);
            }
        } else if name.ends_with(".rs") {
            into.push(path);
        }
    }
}

#[test]
fn the_house_is_tidy() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap();
    let mut files = Vec::new();
    sources(&top, &mut files);
    assert!(
        files.len() > 50,
        "only {} files found under {}",
        files.len(),
        top.display()
    );
    let mut report = Vec::new();
    for file in files {
        let path = file
            .strip_prefix(&top)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        for (line, what) in caravel_test_tidy::complaints(&path, &text) {
            report.push(format!("{path}:{line}: {what}"));
        }
    }
    assert!(
        report.is_empty(),
        "{} places to mend:\n{}",
        report.len(),
        report.join("\n")
    );
}
