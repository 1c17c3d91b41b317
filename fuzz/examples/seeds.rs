//! Writes the seeds to `seeds/`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    if seeds.exists() {
        std::fs::remove_dir_all(&seeds)?;
    }
    for (target, name, bytes) in zvb_fuzz::seeds::all() {
        std::fs::create_dir_all(seeds.join(target))?;
        std::fs::write(seeds.join(target).join(name), bytes)?;
    }
    Ok(())
}
