// SPDX-License-Identifier: Apache-2.0
//! Makes a folder of the node appear in another place, read only.
//!
//! **Guarantees**: doing it twice equals doing it once, and so does undoing it, whatever an earlier life has left half
//! done. Nothing is written down: what there is, the kernel knows.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Statx, StatxAttributes, StatxFlags, statx};
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};

/// Nothing in such a volume is to be changed, run, or taken for a device.
const READ_ONLY: MountFlags = MountFlags::BIND
    .union(MountFlags::RDONLY)
    .union(MountFlags::NOSUID)
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// How many mounts may lie on one another in one place. One is all that we make.
const DEPTH: usize = 16;

/// Makes the mount at `folder` read only: that of our container, not that of the node. All that is made of it is so as well,
/// from the beginning, and where it spreads to: what is changed later would stay as it is there (mount_namespaces(7)).
///
/// Errors: nothing is mounted there.
pub(crate) fn prepare(folder: &Path) -> io::Result<()> {
    if !is_mount(&look(folder)?)? {
        let text = "it is no mount; mount it as a volume of our container";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(mount_remount(folder, READ_ONLY, c"")?)
}

/// Makes `folder`, which is prepared, appear at `target`, which is made.
pub(crate) fn publish(folder: &Path, target: &Path) -> io::Result<()> {
    let wanted = look(folder)?;
    match DirBuilder::new().mode(0o750).create(target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let there = look(target)?;
    if is_mount(&there)? && !is_same(&there, &wanted) {
        uncover(target)?;
    }
    if !is_mount(&look(target)?)? {
        mount_bind(folder, target)?;
    }
    Ok(())
}

/// Removes what `publish` has made.
pub(crate) fn unpublish(target: &Path) -> io::Result<()> {
    match look(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    uncover(target)?;
    fs::remove_dir(target)
}

fn uncover(target: &Path) -> io::Result<()> {
    for _ in 0..DEPTH {
        if !is_mount(&look(target)?)? {
            return Ok(());
        }
        unmount(target, UnmountFlags::NOFOLLOW)?;
    }
    Err(io::Error::other(format!(
        "more than {DEPTH} mounts lie on one another"
    )))
}

fn look(path: &Path) -> io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    Ok(statx(CWD, path, flags, StatxFlags::BASIC_STATS)?)
}

/// Whether something is mounted there, which Linux tells from 5.8 on.
fn is_mount(there: &Statx) -> io::Result<bool> {
    if !there.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel does not tell what is mounted",
        ));
    }
    Ok(there.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn is_same(one: &Statx, other: &Statx) -> bool {
    let place = |at: &Statx| (at.stx_dev_major, at.stx_dev_minor, at.stx_ino);
    place(one) == place(other)
}
