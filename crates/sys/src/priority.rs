//! The I/O priority of the calling thread.

use std::io;

/// `IOPRIO_WHO_PROCESS`; with 0 for who, the calling thread.
const WHO_PROCESS: libc::c_int = 1;

/// `IOPRIO_CLASS_IDLE`, in the bits of the class.
const CLASS_IDLE: libc::c_int = 3 << 13;

/// The calling thread's reads wait until nobody else wants the disk, where the disk's scheduler knows
/// priorities.
#[expect(unsafe_code, reason = "no safe crate has ioprio_set")]
pub fn idle_io() -> io::Result<()> {
    // SAFETY: three numbers; it changes nothing but a property of the calling thread.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(unsafe_code, reason = "no safe crate has ioprio_get")]
    fn now() -> libc::c_long {
        // SAFETY: two numbers in, one out.
        unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) }
    }

    #[test]
    fn only_the_calling_thread_becomes_idle() {
        let before = now();
        let inside = std::thread::spawn(|| {
            idle_io().unwrap();
            now()
        });
        assert_eq!(inside.join().unwrap(), libc::c_long::from(CLASS_IDLE));
        assert_eq!(now(), before);
    }
}
