//! A skeleton of each example.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new("..");
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(stem) = name.strip_suffix(".bpf.o") {
            skep_skel::Builder::from_object(folder.join(&name)).build(stem)?;
        }
    }
    Ok(())
}
