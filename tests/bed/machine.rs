//! A guest as a machine of its own, which QEMU emulates: with firmware, a kernel and a disk. It takes half a minute
//! where a guest that shares the machine's kernel takes a second.

use super::lan::Netns;
use super::process::{ended, must};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes a disk of an image and what a guest has beyond it. `$1` the guest's directory, `$2` its image.
const DISK: &str = r#"
directory=$1 image=$2
mount -t overlay overlay -o "lowerdir=$image,upperdir=$directory/upper,workdir=$directory/work" "$directory/root"
truncate --size=1G "$directory/disk"
mke2fs -q -t ext4 -d "$directory/root" "$directory/disk"
"#;

/// Seconds; an emulated processor is slow, and its machine may be busy.
const PATIENCE: &str = "300";

/// The machine's own network is one of QEMU's, behind the addresses of `netns` and nothing else.
pub(super) fn run(directory: &Path, image: &Path, netns: &Netns, options: &[&str]) -> String {
    let mut disk = Command::new("unshare");
    disk.args(["--mount", "--propagation", "private", "bash", "-euc", DISK, "disk"]);
    must(disk.args([directory, image]));

    let mut machine = netns.command("setpriv");
    machine.args(["--pdeathsig", "KILL", "timeout", "--signal=KILL", PATIENCE, "qemu-system-x86_64"]);
    machine.args(["-machine", "q35,accel=tcg", "-cpu", "max", "-m", "768", "-nographic", "-no-reboot"]);
    machine
        .arg("-kernel")
        .arg(boot_file(image, "vmlinuz-"))
        .arg("-initrd")
        .arg(boot_file(image, "initrd.img-"));
    machine.args(["-append", "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=no"]);
    machine.arg("-drive").arg(format!("file={}/disk,format=raw,if=virtio", directory.display()));
    machine.args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"]);
    let ended = ended(machine.args(options));
    assert!(ended.status.success(), "QEMU: {}\n{}{}", ended.status, ended.stdout, ended.stderr);
    ended.stdout
}

/// What there is one of, whatever its version.
fn boot_file(image: &Path, prefix: &str) -> PathBuf {
    let files = std::fs::read_dir(image.join("boot")).unwrap().map(|file| file.unwrap().path());
    let named =
        |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    files
        .into_iter()
        .find(named)
        .unwrap_or_else(|| panic!("no {prefix} in {}: run tests/all", image.display()))
}
