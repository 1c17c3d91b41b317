//! Each of the seeds passes, whatever the compiler. One test, alone in its process: the targets count what
//! the whole process has open.

use std::path::{Path, PathBuf};

use zvb_fuzz::TARGETS;

#[test]
fn every_seed_passes() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for (target, run) in TARGETS {
        let entries = std::fs::read_dir(seeds.join(target)).expect("seeds of each target");
        let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
        paths.sort();
        for path in paths {
            eprintln!("{}", path.display());
            run(&std::fs::read(&path).expect("a file"));
        }
    }
}
