//! TLS: the client against QEMU's server, and against servers that are wrong.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use benchtop_block::conformance::{self, Sequence, read, write};
use benchtop_block::{BlockErrorKind, DiskBackend};
use benchtop_nbd::{Address, NbdDisk, Tls, WANTS_TLS};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tempfile::TempDir;

const SIZE: u64 = 2 << 20;

/// Certificates in a folder, as QEMU wants them.
struct Authority {
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "an authority of a test");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let put = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
        put("ca-cert.pem", authority.pem());
        for (who, purpose) in
            [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
        {
            let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
            params.extended_key_usages.push(purpose);
            params.distinguished_name.push(rcgen::DnType::CommonName, who);
            let key = KeyPair::generate().unwrap();
            put(&format!("{who}-cert.pem"), params.signed_by(&key, &authority).unwrap().pem());
            put(&format!("{who}-key.pem"), key.serialize_pem());
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tls(&self, host: &str, with_client: bool) -> Tls {
        let pem = |name: &str| fs::read(self.path(name)).unwrap();
        let (chain, key) = (pem("client-cert.pem"), pem("client-key.pem"));
        Tls::new(&pem("ca-cert.pem"), with_client.then_some((&chain[..], &key[..])), host).unwrap()
    }
}

/// A `qemu-nbd` that ends with the test.
struct Theirs {
    child: Child,
    address: Address,
}

impl Drop for Theirs {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

impl Theirs {
    /// None where it is not installed, or has no TLS.
    fn start(test: &str, image: &Path, credentials: Option<&str>) -> Option<Self> {
        // It is given a socket that listens already, as systemd would. A port that was bound and left to be free would
        // not be at once: what another thread starts meanwhile has a copy of the socket until it is executed, and who
        // connects then is reset.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut command = Command::new("sh");
        command.args(["-c", "exec 3<&0; LISTEN_PID=$$ LISTEN_FDS=1 exec qemu-nbd \"$@\"", "qemu-nbd"]);
        command.args(["-t", "-e", "8", "-f", "raw", "-x", "theirs", "--discard=unmap"]);
        command.stdin(OwnedFd::from(listener)).stderr(Stdio::piped());
        if let Some(credentials) = credentials {
            command.args(["--object", credentials, "--tls-creds", "tls0"]);
        }
        let child = command.arg(image).spawn().unwrap();
        // Its copy of the socket: with the server's end nobody listens.
        drop(command);
        let mut theirs = Self { child, address: Address::Tcp("127.0.0.1".to_owned(), port) };
        let greets = |mut stream: TcpStream| stream.read_exact(&mut [0; 8]).is_ok();
        if !TcpStream::connect(("127.0.0.1", port)).is_ok_and(greets) {
            let mut told = String::new();
            theirs.child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
            assert!(told.contains("support") || told.contains("not found"), "{told}");
            println!("SKIPPED {test}: qemu-nbd is not installed, or has no TLS: {told}");
            return None;
        }
        Some(theirs)
    }

    fn connect(&self, tls: &Tls) -> Result<NbdDisk, benchtop_block::BlockError> {
        NbdDisk::connect_with_tls(&self.address, "theirs", false, tls)
    }
}

fn image(authority: &Authority) -> PathBuf {
    let image = authority.path("disk.raw");
    File::create(&image).unwrap().set_len(SIZE).unwrap();
    image
}

fn credentials(authority: &Authority, verify_peer: bool) -> String {
    let (folder, verify) = (authority.folder.path().display(), if verify_peer { "yes" } else { "no" });
    format!("tls-creds-x509,id=tls0,endpoint=server,dir={folder},verify-peer={verify}")
}

#[test]
fn our_client_conforms_on_qemu_nbd_by_tls() {
    let authority = Authority::new();
    let image = image(&authority);
    let test = "our_client_conforms_on_qemu_nbd_by_tls";
    let Some(theirs) = Theirs::start(test, &image, Some(&credentials(&authority, false))) else { return };
    let tls = authority.tls("localhost", false);
    conformance::run(|| theirs.connect(&tls).unwrap());
    let disk = Arc::new(theirs.connect(&authority.tls("127.0.0.1", false)).unwrap());
    // Several at once, of more than a record of TLS.
    let threads: Vec<_> = (0..4u64)
        .map(|number| {
            let disk = disk.clone();
            let body = move || {
                let (at, len) = (number * (SIZE / 4), (SIZE / 4) as usize);
                for round in 0..8 {
                    let bytes = Sequence::new(number * 100 + round).bytes(len);
                    write(&*disk, at, &bytes, &[4096], round % 2 == 0).unwrap();
                    assert!(read(&*disk, at, len, &[77 * 512]).unwrap() == bytes);
                }
            };
            std::thread::Builder::new().spawn(body).unwrap()
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    disk.flush().unwrap();
    // A server that vanishes is an error, and no hang.
    drop(theirs);
    assert_eq!(read(&*disk, 0, 512, &[]).unwrap_err().kind(), BlockErrorKind::Io);
    assert_eq!(write(&*disk, 0, &[1; 512], &[], false).unwrap_err().kind(), BlockErrorKind::Io);
    assert!(disk.flush().is_err() && disk.reopen().is_err());
}

#[test]
fn only_who_can_be_trusted_is_talked_to() {
    let authority = Authority::new();
    let image = image(&authority);
    let test = "only_who_can_be_trusted_is_talked_to";
    let Some(theirs) = Theirs::start(test, &image, Some(&credentials(&authority, true))) else { return };
    theirs.connect(&authority.tls("localhost", true)).unwrap();
    let refused = |result: Result<NbdDisk, benchtop_block::BlockError>| result.unwrap_err().to_string();
    let told = refused(theirs.connect(&authority.tls("example.org", true)));
    assert!(told.contains("not valid for name") || told.contains("certificate"), "{told}");
    let told = refused(theirs.connect(&Authority::new().tls("localhost", true)));
    assert!(told.contains("UnknownIssuer") || told.contains("certificate"), "{told}");
    // Without a certificate of ours.
    refused(theirs.connect(&authority.tls("localhost", false)));
    assert_eq!(refused(NbdDisk::connect(&theirs.address, "theirs", false)), WANTS_TLS);
}

/// What the server may be, it is never spoken to without TLS then.
#[test]
fn nobody_talks_us_out_of_tls() {
    let authority = Authority::new();
    let image = image(&authority);
    if let Some(theirs) = Theirs::start("nobody_talks_us_out_of_tls", &image, None) {
        let told = theirs.connect(&authority.tls("localhost", false)).unwrap_err().to_string();
        assert!(told.contains("has no TLS"), "{told}");
    }
    let greeting = b"NBDMAGICIHAVEOPT\0\x03";
    let reply = |kind: u32| {
        [&0x0003_e889_0455_65a9u64.to_be_bytes()[..], &[5, kind, 0].map(u32::to_be_bytes).concat()].concat()
    };
    let agreed = [&greeting[..], &reply(1)].concat();
    // Refused; agreed and then plain words; a fatal alert; an end; noise.
    let cases: [(&str, Vec<u8>); 5] = [
        ("refused", [&greeting[..], &reply(0x8000_0001)].concat()),
        ("plain", [&agreed[..], &reply(1), &reply(1), &[0; 64]].concat()),
        ("alert", [&agreed[..], &[21, 3, 3, 0, 2, 2, 40]].concat()),
        ("end", agreed.clone()),
        ("noise", [&agreed[..], &Sequence::new(9).bytes(4096)].concat()),
    ];
    for (name, bytes) in cases {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&bytes).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let result = NbdDisk::from_unix_with_tls(ours, "disk", false, &authority.tls("localhost", false));
        assert!(result.is_err(), "{name}");
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).unwrap();
        // Our flags, the one option, and nothing but TLS records after it.
        let said = heard.get(20..).unwrap_or_default();
        assert!(said.is_empty() || matches!(said[0], 21 | 22), "{name}: {said:?}");
    }
}

#[test]
fn what_is_no_certificate_is_told_apart() {
    let authority = Authority::new();
    let pem = |name: &str| fs::read(authority.path(name)).unwrap();
    let (ca, chain, key) = (pem("ca-cert.pem"), pem("client-cert.pem"), pem("client-key.pem"));
    for (ca, client, host) in [
        (&b""[..], None, "localhost"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None, "localhost"),
        (b"-----BEGIN CERTIFICATE-----\n\xff", None, "localhost"),
        (&key, None, "localhost"),
        (&ca, Some((&chain[..], &chain[..])), "localhost"),
        (&ca, Some((&key[..], &key[..])), "localhost"),
        (&ca, Some((&pem("server-cert.pem")[..], &key[..])), "localhost"),
        (&ca, None, "no name"),
        (&ca, None, ""),
    ] {
        assert_eq!(Tls::new(ca, client, host).unwrap_err().kind(), BlockErrorKind::Unsupported);
    }
}
