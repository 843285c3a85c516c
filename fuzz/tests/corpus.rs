//! Every file of the corpus, and every input that ever crashed a target.

use std::{error::Error, fs, path::Path};

use sg_fuzz::TARGETS;

#[test]
fn every_target_takes_its_corpus() -> Result<(), Box<dyn Error>> {
    for (name, target) in TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let mut files = 0;
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            // A panic says what is wrong; this says with what.
            eprintln!("{}", path.display());
            target(&fs::read(&path)?);
            files += 1;
        }
        assert!(files > 0, "no corpus in {}", directory.display());
    }
    Ok(())
}
