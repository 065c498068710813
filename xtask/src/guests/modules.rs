//! Modules of a Linux kernel and what they depend on, as they say themselves.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Files of these modules below `folder`, each after those it depends on.
///
/// # Errors
/// One is not there.
pub fn in_order(folder: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = BTreeMap::new();
    find(folder, &mut files)?;
    let mut order = Vec::new();
    for name in names {
        add(name, &files, &mut order)?;
    }
    Ok(order)
}

/// All modules below `folder`, by name: file names have a dash for some of the underscores.
fn find(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "ko")
            && let Some(name) = path.file_stem()
        {
            files.insert(name.to_string_lossy().replace('-', "_"), path);
        }
    }
    Ok(())
}

fn add(name: &str, files: &BTreeMap<String, PathBuf>, order: &mut Vec<PathBuf>) -> Result<()> {
    let path = files.get(&name.replace('-', "_")).with_context(|| format!("there is no module {name}"))?;
    if order.contains(path) {
        return Ok(());
    }
    for other in depends(&fs::read(path)?) {
        add(&other, files, order)?;
    }
    order.push(path.clone());
    Ok(())
}

/// What the section .modinfo says: texts that end in zeroes.
fn depends(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else { return Vec::new() };
    let text: Vec<u8> = module[at + key.len()..].iter().copied().take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&text).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
