// SPDX-License-Identifier: Apache-2.0
//! Writes container images as archives of the OCI image format (image-spec 1.1): one layer, made of files.
//!
//! The same files, labels and time give the same bytes, on any machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// What is in an image.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    /// The name that it gets where it is imported: host/path/name:tag.
    pub(crate) name: String,
    /// Where what is in it: absolute paths.
    pub(crate) entries: Vec<(String, Entry)>,
    /// The program that it starts.
    pub(crate) entrypoint: String,
    /// Who runs it, uid:gid.
    pub(crate) user: String,
    /// Facts about it, by the keys `org.opencontainers.image.…`.
    pub(crate) labels: BTreeMap<String, String>,
    /// When it was made, as RFC 3339 says it.
    pub(crate) created: String,
}

/// One thing in an image.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A program: a copy of this file, which everybody may run.
    Program(PathBuf),
    /// A folder with this mode.
    Folder(u32),
    /// Another name of what is at this path.
    Link(String),
}

/// A part of an image, and what its parents tell of it.
struct Blob {
    kind: &'static str,
    content: Vec<u8>,
}

impl Blob {
    fn json(kind: &'static str, value: &Value) -> Self {
        Self {
            kind,
            content: value.to_string().into_bytes(),
        }
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.kind, "digest": digest(&self.content), "size": self.content.len()})
    }
}

impl Image {
    /// Writes the archive. Returns how large the image is where it is kept and sent, in bytes.
    pub(crate) fn write(&self, archive: &Path) -> Result<u64> {
        let unpacked = self.layer()?;
        let mut packing = GzBuilder::new().write(Vec::new(), Compression::best());
        packing.write_all(&unpacked)?;
        let layer = Blob {
            kind: "application/vnd.oci.image.layer.v1.tar+gzip",
            content: packing.finish()?,
        };
        let config = Blob::json(
            "application/vnd.oci.image.config.v1+json",
            &json!({
                "created": self.created,
                "architecture": "amd64",
                "os": "linux",
                "config": {
                    "User": self.user,
                    "Env": ["PATH=/bin"],
                    "Entrypoint": [self.entrypoint],
                    "WorkingDir": "/",
                    "Labels": self.labels,
                },
                "rootfs": {"type": "layers", "diff_ids": [digest(&unpacked)]},
                "history": [{"created": self.created, "created_by": "cargo xtask images"}],
            }),
        );
        let manifest = Blob::json(
            "application/vnd.oci.image.manifest.v1+json",
            &json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": config.descriptor(),
                "layers": [layer.descriptor()],
                "annotations": self.labels,
            }),
        );
        let size = [&layer, &config, &manifest].map(|blob| blob.content.len() as u64);
        self.write_archive(archive, &manifest, &[&config, &layer])
            .with_context(|| format!("cannot write {}", archive.display()))?;
        Ok(size.iter().sum())
    }

    fn write_archive(&self, archive: &Path, manifest: &Blob, others: &[&Blob]) -> Result<()> {
        let mut listed = manifest.descriptor();
        let tag = self.name.rsplit(':').next().unwrap_or_default();
        listed["annotations"] =
            json!({"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [listed],
        });
        let mut tar = Builder::new(File::create(archive)?);
        add(
            &mut tar,
            "oci-layout",
            0o644,
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        add(&mut tar, "index.json", 0o644, index.to_string().as_bytes())?;
        for blob in others.iter().chain([&manifest]) {
            let name = format!("blobs/{}", digest(&blob.content).replace(':', "/"));
            add(&mut tar, &name, 0o644, &blob.content)?;
        }
        tar.into_inner()?.flush()?;
        Ok(())
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            let path = path.trim_start_matches('/');
            match entry {
                Entry::Program(file) => {
                    let content = std::fs::read(file);
                    let content = content.with_context(|| format!("cannot read {}", file.display()))?;
                    add(&mut tar, path, 0o755, &content)?;
                }
                Entry::Folder(mode) => {
                    let mut header = header(*mode, 0);
                    header.set_entry_type(EntryType::Directory);
                    tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Entry::Link(to) => {
                    let mut header = header(0o777, 0);
                    header.set_entry_type(EntryType::Symlink);
                    tar.append_link(&mut header, path, to)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }
}

fn add(tar: &mut Builder<impl Write>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    Ok(tar.append_data(&mut header(mode, content.len() as u64), path, content)?)
}

/// The header of an entry that is root's, and as old as time.
fn header(mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn digest(content: &[u8]) -> String {
    let hex = Sha256::digest(content)
        .iter()
        .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image {
            name: "localhost/try:1".into(),
            entries: vec![
                ("/bin/true".into(), Entry::Program("/bin/true".into())),
                ("/tmp".into(), Entry::Folder(0o1777)),
                ("/bin/also-true".into(), Entry::Link("true".into())),
            ],
            entrypoint: "/bin/true".into(),
            user: "65532:65532".into(),
            created: "2026-01-01T00:00:00Z".into(),
            ..Image::default()
        }
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let archive = std::env::temp_dir().join(format!("nsm-image-{}.tar", std::process::id()));
        let written = [image(), image()].map(|image| {
            image.write(&archive).expect("it can be written");
            std::fs::read(&archive).expect("it is there")
        });
        std::fs::remove_file(&archive).expect("it is ours");
        assert!(written[0] == written[1]);
        let text = String::from_utf8_lossy(&written[0]);
        assert!(text.contains(r#""io.containerd.image.name":"localhost/try:1""#));
    }

    #[test]
    fn what_is_in_a_layer_is_root_s_and_as_old_as_time() {
        let layer = image().layer().expect("the files are there");
        let mut archive = tar::Archive::new(layer.as_slice());
        let entries = archive.entries().expect("it is an archive").map(|entry| {
            let header = entry.expect("it can be read").header().clone();
            let path = header.path().expect("it has a path").display().to_string();
            assert_eq!(
                (header.uid().ok(), header.gid().ok(), header.mtime().ok()),
                (Some(0), Some(0), Some(0))
            );
            (path, header.mode().expect("it has a mode"))
        });
        let expected = [("bin/true", 0o755), ("tmp/", 0o1777), ("bin/also-true", 0o777)];
        assert_eq!(
            entries.collect::<Vec<_>>(),
            expected.map(|(path, mode)| (path.to_string(), mode))
        );
    }

    #[test]
    fn digests_are_those_of_sha256() {
        let expected = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(b""), expected);
    }
}
