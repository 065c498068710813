//! `list`: the VMs of the library, and those `boot` runs under a name.

use benchtop_control::{Bundle, Client, Failure, FailureKind, Library, RuntimeFolder, Size, VmState};
use clap::Args;
use serde::Serialize;

use crate::output::{Output, table};
use crate::target::{Found, boot_key, look, part_copies};

/// `list`.
#[derive(Debug, Args)]
pub struct List {}

/// A line of it.
#[derive(Serialize)]
struct Row {
    name: String,
    /// A throw-away VM has none.
    path: Option<std::path::PathBuf>,
    uuid: Option<uuid::Uuid>,
    state: Option<VmState>,
    memory_bytes: Option<u64>,
    cpus: Option<u32>,
    error: Option<Failure>,
}

impl List {
    /// Runs the verb. A VM that can not be read is listed all the same, with `--json` with the reason.
    ///
    /// # Errors
    /// The library can not be read.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        part_copies(output)?;
        let library = Library::of_user()?;
        let runtime = RuntimeFolder::open().ok();
        let mut rows: Vec<Row> = library.paths()?.iter().map(|path| row(path)).collect();
        rows.extend(runtime.iter().flat_map(|runtime| {
            runtime.boot_names().into_iter().filter_map(|name| booted_row(Client::connect(runtime, &boot_key(&name))))
        }));
        let fields = serde_json::json!({ "library": library.folder(), "vms": rows });
        output.result("list", &fields, || {
            if rows.is_empty() {
                return format!("No VMs in {}. Make one with `benchtop new`.", library.folder().display());
            }
            let mut lines = vec![["NAME", "STATE", "MEMORY", "CPUS"].map(str::to_owned).to_vec()];
            lines.extend(rows.iter().map(|row| match &row.error {
                Some(error) => {
                    // The reason may be long; `show` gives it.
                    let word = if error.kind == FailureKind::NotCapable { "no access" } else { "damaged" };
                    vec![row.name.clone(), word.to_owned()]
                }
                None => vec![
                    row.name.clone(),
                    row.state.map_or("unknown", VmState::name).to_owned(),
                    row.memory_bytes.map(|bytes| Size(bytes).human()).unwrap_or_default(),
                    row.cpus.map(|cpus| cpus.to_string()).unwrap_or_default(),
                ],
            }));
            table(&lines)
        })
    }
}

fn row(path: &std::path::Path) -> Row {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let empty = Row {
        name,
        path: Some(path.to_path_buf()),
        uuid: None,
        state: None,
        memory_bytes: None,
        cpus: None,
        error: None,
    };
    match Bundle::open(path).and_then(|bundle| bundle.config().map(|config| (bundle, config))) {
        Err(error) => Row { error: Some(error), ..empty },
        Ok((bundle, config)) => {
            let state = match look(&bundle, &config) {
                Ok(Found::Client(mut client)) => match client.show() {
                    Ok(info) => Some(info.state),
                    // It has gone meanwhile, or it is stuck.
                    Err(_) if bundle.holder().is_none() => Some(VmState::Off),
                    Err(_) => Some(VmState::Unreachable),
                },
                Ok(Found::Nothing) => Some(VmState::Off),
                Ok(Found::Unreachable(_)) => Some(VmState::Unreachable),
                Err(_) => None,
            };
            Row {
                uuid: Some(config.uuid),
                state,
                memory_bytes: Some(config.memory.bytes()),
                cpus: Some(config.cpus),
                ..empty
            }
        }
    }
}

/// The line of a VM that `boot` runs.
fn booted_row(client: Result<Option<Client>, Failure>) -> Option<Row> {
    let info = client.ok()??.show().ok()?;
    Some(Row {
        name: info.name,
        path: None,
        uuid: Some(info.uuid),
        state: Some(info.state),
        memory_bytes: Some(info.memory_bytes),
        cpus: Some(info.cpus),
        error: None,
    })
}
