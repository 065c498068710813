//! The direction of dependencies between our crates (ARCHITECTURE.md): each lists those it may use.

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::process::repository;

/// What each crate may depend on, among our own.
const ALLOWED: &[(&str, &[&str])] = &[
    ("benchtop-memory", &[]),
    ("benchtop-control", &[]),
    ("benchtop-block", &["benchtop-memory"]),
    ("benchtop-images", &["benchtop-block", "benchtop-memory"]),
    ("benchtop-nbd", &["benchtop-block", "benchtop-memory"]),
    ("benchtop-strata", &["benchtop-block", "benchtop-memory"]),
    ("benchtop-devices", &["benchtop-block", "benchtop-memory"]),
    ("benchtop-hypervisor", &["benchtop-memory", "benchtop-x86"]),
    ("benchtop-x86", &["benchtop-memory"]),
    (
        "benchtop-machine",
        &[
            "benchtop-block",
            "benchtop-control",
            "benchtop-devices",
            "benchtop-hypervisor",
            "benchtop-images",
            "benchtop-memory",
            "benchtop-nbd",
            "benchtop-strata",
        ],
    ),
    (
        "benchtop",
        &[
            "benchtop-block",
            "benchtop-control",
            "benchtop-devices",
            "benchtop-hypervisor",
            "benchtop-images",
            "benchtop-machine",
            "benchtop-memory",
            "benchtop-nbd",
            "benchtop-strata",
        ],
    ),
    ("xtask", &[]),
];

/// Tests may use everything.
const FREE: &str = "benchtop-tests";

/// Compares the table with what cargo knows.
///
/// # Errors
/// Every edge that is not allowed, and every crate without a rule.
pub fn check() -> Result<()> {
    let metadata = MetadataCommand::new()
        .manifest_path(repository().join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("could not read the workspace's metadata")?;
    let ours: Vec<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        if package.name == FREE {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| package.name == *name) else {
            wrong.push(format!("{} has no rule in xtask/src/check/edges.rs", package.name));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|dependency| ours.contains(&dependency.name.as_str())) {
            if dependency.kind != DependencyKind::Development && !allowed.contains(&dependency.name.as_str()) {
                wrong.push(format!("{} must not depend on {}", package.name, dependency.name));
            }
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}", wrong.join("\n"))
}
