//! The committed seeds are those that are made.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use zvb_fuzz::TARGETS;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")
}

#[test]
fn what_is_committed_is_what_is_made() {
    let made = zvb_fuzz::seeds::all();
    let mut names = BTreeSet::new();
    for (target, name, bytes) in &made {
        let path = directory().join(target).join(name);
        let found = std::fs::read(&path).unwrap_or_default();
        assert!(found == *bytes, "{} is stale: run the example `seeds`", path.display());
        assert!(names.insert(path), "two seeds named {target}/{name}");
    }
    for (target, _) in TARGETS {
        let found = std::fs::read_dir(directory().join(target)).expect("seeds of each target");
        for entry in found {
            let path = entry.expect("a directory that can be read").path();
            assert!(names.contains(&path), "{} is made by nobody", path.display());
        }
    }
}
