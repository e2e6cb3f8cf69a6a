//! A file system whose server never answers.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

/// Mounted as long as the value is there. Whoever waits for it then hears that it is gone.
pub struct Silent {
    place: CString,
    /// The server's end.
    _device: File,
}

impl Silent {
    /// Over a folder. `None`, and a line that says so, where that cannot be done.
    pub fn over(folder: &Path) -> Option<Silent> {
        let device = File::options().read(true).write(true).open("/dev/fuse").ok();
        let mounted = device.and_then(|device| {
            let place = CString::new(folder.as_os_str().as_bytes()).expect("a path");
            let number = device.as_raw_fd();
            let options = format!("fd={number},rootmode=40000,user_id=0,group_id=0,allow_other");
            let options = CString::new(options).expect("options");
            let (kind, flags) = (c"fuse".as_ptr(), libc::MS_NOSUID | libc::MS_NODEV);
            // SAFETY: all of them end with a zero byte and outlive the call.
            let result =
                unsafe { libc::mount(kind, place.as_ptr(), kind, flags, options.as_ptr().cast()) };
            (result == 0).then_some(Silent { place, _device: device })
        });
        if mounted.is_none() {
            println!("not run: this test mounts a FUSE file system");
        }
        mounted
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // SAFETY: the path ends with a zero byte and outlives the call.
        unsafe { libc::umount2(self.place.as_ptr(), libc::MNT_DETACH) };
    }
}
