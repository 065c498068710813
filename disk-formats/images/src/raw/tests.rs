use std::fs::OpenOptions;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use benchtop_block::conformance::{self, read, write};
use benchtop_block::recording::RecordingDisk;
use benchtop_block::{
    CacheMode, Completed, CompletionSink, Disk, DiskBackend, DiskOptions, Extent, ExtentKind, Operation, Request,
    Submission,
};
use benchtop_memory::{Gpa, GuestMemory, IoBuffer, ScatterList};

use super::*;
use crate::file::recording;

fn image(len_bytes: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(len_bytes).unwrap();
    file
}

fn open(file: &tempfile::NamedTempFile, read_only: bool) -> Result<RawDisk, BlockError> {
    let file = OpenOptions::new().read(true).write(!read_only).open(file.path()).unwrap();
    RawDisk::open(file, read_only)
}

#[test]
fn conforms() {
    conformance::run(|| open(&image(1 << 20), false).unwrap());
    let bytes = conformance::Sequence::new(1).bytes(8192);
    let file = image(0);
    std::fs::write(file.path(), &bytes).unwrap();
    conformance::read_only(&open(&file, true).unwrap(), &bytes);
}

#[test]
fn bytes_behind_the_last_sector_are_not_the_guests() {
    let file = image(0);
    std::fs::write(file.path(), [7; 1500]).unwrap();
    let disk = open(&file, false).unwrap();
    assert_eq!(disk.info().size_bytes, 1024);
    write(&disk, 512, &[1; 512], &[], false).unwrap();
    disk.discard(0, 1024).unwrap();
    drop(disk);
    let bytes = std::fs::read(file.path()).unwrap();
    assert_eq!((bytes.len(), &bytes[1024..]), (1500, &[7; 476][..]));
    assert_eq!(open(&image(511), false).unwrap_err().kind(), BlockErrorKind::Unsupported);
}

#[test]
fn a_disk_in_use_is_refused() {
    let file = image(4096);
    let writer = open(&file, false).unwrap();
    assert_eq!(open(&file, false).unwrap_err().kind(), BlockErrorKind::InUse);
    assert_eq!(open(&file, true).unwrap_err().kind(), BlockErrorKind::InUse);
    info(file.as_file()).unwrap();
    drop(writer);
    let readers = (open(&file, true).unwrap(), open(&file, true).unwrap());
    assert_eq!(open(&file, false).unwrap_err().kind(), BlockErrorKind::InUse);
    drop(readers);
    open(&file, false).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn descriptors_of_the_wrong_kind_are_refused() {
    let file = image(4096);
    let reading = File::open(file.path()).unwrap();
    assert_eq!(RawDisk::open(reading, false).unwrap_err().kind(), BlockErrorKind::ReadOnly);
    for path in ["/dev/null", "/"] {
        let error = RawDisk::open(File::open(path).unwrap(), true).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Unsupported, "{path}");
    }
}

#[test]
fn an_image_is_created_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    let file = create(&path, 1 << 30).unwrap();
    let facts = info(&file).unwrap();
    assert_eq!((facts.virtual_bytes, facts.file_bytes), (1 << 30, 1 << 30));
    assert!(facts.allocated_bytes < 1 << 20, "{facts:?}");
    RawDisk::open(file, false).unwrap();

    std::fs::write(&path, b"mine").unwrap();
    let error = create(&path, 4096).unwrap_err();
    let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<io::Error>()).unwrap();
    assert_eq!(cause.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");

    assert_eq!(create(&directory.path().join("odd"), 1000).unwrap_err().kind(), BlockErrorKind::OutOfRange);
    assert_eq!(create(&directory.path().join("none"), 0).unwrap_err().kind(), BlockErrorKind::OutOfRange);
    // Longer than any file can be: the temporary file does not stay behind.
    create(&directory.path().join("huge"), 1 << 63).unwrap_err();
    assert!(create(&directory.path().join("no/such/directory"), 4096).is_err());
    let names: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["disk.raw"]);
}

#[cfg(unix)]
#[test]
fn others_can_not_read_a_new_image() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let file = create(&directory.path().join("disk.raw"), 4096).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0);
}

#[test]
fn a_poisoned_image_refuses_until_it_is_reopened() {
    let file = image(8192);
    let disk = open(&file, false).unwrap();
    recording::fail_syncs_after(0, 1);
    assert_eq!(disk.flush().unwrap_err().kind(), BlockErrorKind::Poisoned);
    for refused in [write(&disk, 0, &[1; 512], &[], false), disk.flush(), disk.discard(0, 512)] {
        assert_eq!(refused.unwrap_err().kind(), BlockErrorKind::Poisoned);
    }
    file.as_file().set_len(4096).unwrap();
    assert_eq!(disk.reopen().unwrap_err().kind(), BlockErrorKind::Corrupt);
    file.as_file().set_len(8192).unwrap();
    disk.reopen().unwrap();
    write(&disk, 0, &[1; 512], &[], true).unwrap();
    assert_eq!(read(&disk, 0, 512, &[]).unwrap(), [1; 512]);
}

#[test]
fn a_file_cut_short_while_open_is_an_error() {
    let file = image(8192);
    let disk = open(&file, false).unwrap();
    file.as_file().set_len(4096).unwrap();
    assert_eq!(read(&disk, 4096, 512, &[]).unwrap_err().kind(), BlockErrorKind::Io);
}

#[derive(Debug)]
struct Sink(SyncSender<Completed>);

impl CompletionSink for Sink {
    fn complete(&self, completed: Completed) {
        self.0.send(completed).unwrap_or_default();
    }
}

/// Guest memory to file and back through the queue, scattered over pages, with the order proved on the way.
#[test]
fn guest_memory_goes_straight_through_the_queue() {
    let file = image(1 << 20);
    let layer = RecordingDisk::new(Arc::new(open(&file, false).unwrap()));
    let recorder = layer.recorder();
    let disk = Disk::new(Arc::new(layer), DiskOptions { cache: CacheMode::Writethrough, inline: false });
    let memory = GuestMemory::new(&[(0, 1 << 20)]).unwrap();
    let (sender, completions) = sync_channel(64);
    let sink: Arc<dyn CompletionSink> = Arc::new(Sink(sender));
    // Pages in descending order, so that no two pieces merge.
    let list = |first: u64| {
        let mut list = ScatterList::new(&memory);
        for page in 0..8 {
            list.push(Gpa(first - page * 4096), 512).unwrap();
        }
        list
    };
    for page in 0..8u64 {
        memory.write(Gpa(0x1_0000 - page * 4096), &[page as u8 + 1; 512]).unwrap();
    }
    for token in 0..16 {
        let offset_bytes = token * 4096;
        let request = Request {
            token,
            operation: Operation::Write { fua: false },
            offset_bytes,
            len_bytes: 4096,
            buffer: IoBuffer::Guest(list(0x1_0000)),
            sink: recorder.sink(offset_bytes, 4096, sink.clone()),
        };
        assert!(matches!(disk.submit(request), Submission::Pending));
    }
    for _ in 0..16 {
        completions.recv().unwrap().result.unwrap();
    }
    assert_eq!(recorder.check_write_through(), Ok(16));
    let request = Request {
        token: 99,
        operation: Operation::Read,
        offset_bytes: 15 * 4096,
        len_bytes: 4096,
        buffer: IoBuffer::Guest(list(0x8_0000)),
        sink,
    };
    match disk.submit(request) {
        Submission::Done(completed) => completed.result.unwrap(),
        Submission::Pending => completions.recv().unwrap().result.unwrap(),
    }
    for page in 0..8u64 {
        assert_eq!(memory.read_array::<512>(Gpa(0x8_0000 - page * 4096)), Ok([page as u8 + 1; 512]));
    }
}

#[test]
fn holes_are_told_from_data() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let disk = RawDisk::open(file, false).unwrap();
    write(&disk, 256 << 10, &[7; 4096], &[], false).unwrap();
    let mut told = Vec::new();
    let mut at = 0;
    while at < 1 << 20 {
        let extent = disk.extent_at(at, (1 << 20) - at).unwrap();
        told.push((at, extent.kind));
        at += extent.len_bytes;
    }
    let whole = [(0, ExtentKind::Zeroes), (256 << 10, ExtentKind::Data), (260 << 10, ExtentKind::Zeroes)];
    // A file system without holes has one run of data.
    assert!(told == whole || told == [(0, ExtentKind::Data)], "{told:?}");
    assert_eq!(disk.extent_at(256 << 10, 512).unwrap(), Extent { kind: ExtentKind::Data, len_bytes: 512 });
}
