//! `list`: the VMs of the library.

use benchtop_control::{Bundle, Client, Failure, Library, RuntimeFolder, Size, VmState};
use clap::Args;
use serde::Serialize;

use crate::output::{Output, table};
use crate::target::part_copies;

/// `list`.
#[derive(Debug, Args)]
pub struct List {}

/// A line of it.
#[derive(Serialize)]
struct Row {
    name: String,
    path: std::path::PathBuf,
    uuid: Option<uuid::Uuid>,
    state: Option<VmState>,
    memory_bytes: Option<u64>,
    cpus: Option<u32>,
    error: Option<Failure>,
}

impl List {
    /// Runs the verb. A VM that can not be read is listed with the reason.
    ///
    /// # Errors
    /// The library can not be read.
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        part_copies(output)?;
        let library = Library::of_user()?;
        let runtime = RuntimeFolder::open().ok();
        let rows: Vec<Row> = library.paths()?.iter().map(|path| row(path, runtime.as_ref())).collect();
        let fields = serde_json::json!({ "library": library.folder(), "vms": rows });
        output.result("list", &fields, || {
            if rows.is_empty() {
                return format!("No VMs in {}. Make one with `benchtop new`.", library.folder().display());
            }
            let mut lines = vec![["NAME", "STATE", "MEMORY", "CPUS"].map(str::to_owned).to_vec()];
            lines.extend(rows.iter().map(|row| match &row.error {
                Some(error) => vec![row.name.clone(), format!("unreadable: {}", error.why)],
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

fn row(path: &std::path::Path, runtime: Option<&RuntimeFolder>) -> Row {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let empty =
        Row { name, path: path.to_path_buf(), uuid: None, state: None, memory_bytes: None, cpus: None, error: None };
    match Bundle::open(path).and_then(|bundle| bundle.config()) {
        Err(error) => Row { error: Some(error), ..empty },
        Ok(config) => {
            let client = runtime.map(|runtime| Client::connect(runtime, &config.uuid.to_string()));
            let state = match client {
                Some(Ok(Some(mut client))) => client.show().ok().map(|info| info.state),
                Some(Ok(None)) => Some(VmState::Off),
                _ => None,
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
