//! What breaks the store on purpose is in no release: the feature is off unless it is asked for by name.

use std::path::Path;

/// Manifests that may name the feature, each as a feature of its own that nothing else turns on.
const MAY: [(&str, &str); 3] = [
    ("control/store/Cargo.toml", "sabotage = []"),
    (
        "tests/sim/Cargo.toml",
        r#"sabotage = ["caravel-store/sabotage"]"#,
    ),
    (
        "deploy/caravel/Cargo.toml",
        r#"sabotage = ["caravel-store/sabotage"]"#,
    ),
];

fn manifests(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            manifests(&path, found);
        } else if name == "Cargo.toml" {
            found.push(path);
        }
    }
}

#[test]
fn no_build_is_broken_unless_asked_to_be() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let top = top.canonicalize().unwrap();
    let mut found = Vec::new();
    manifests(&top, &mut found);
    let mut named = 0;
    for file in found {
        let path = file.strip_prefix(&top).unwrap().to_string_lossy();
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().map(str::trim);
        for line in lines.filter(|line| line.contains("sabotage") && !line.starts_with('#')) {
            let harmless = MAY
                .iter()
                .any(|(file, feature)| *file == path && *feature == line)
                || line == r#"required-features = ["sabotage"]"#
                || line == r#"name = "sabotage""#;
            assert!(harmless, "{path}: {line}");
            named += 1;
        }
    }
    assert!(named >= MAY.len(), "the features were not found");
}
