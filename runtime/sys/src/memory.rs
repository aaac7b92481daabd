//! The C library's heap, which a daemon that is idle most of its life must not let grow.

/// `mallopt(M_ARENA_MAX, count)`: at most so many heaps. glibc makes one for each thread that allocates, eight for each
/// processor, and memory that is freed in one serves no other. Call it before threads are started.
/// <https://man7.org/linux/man-pages/man3/mallopt.3.html>
pub fn limit_arenas(count: std::ffi::c_int) {
    // SAFETY: both arguments are integers; glibc sets a number that later allocations look at.
    let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, count) };
    debug_assert_eq!(set, 1, "glibc knows M_ARENA_MAX since 2.10");
}

/// `malloc_trim(0)`: gives freed memory back to the kernel, from all heaps. Takes each heap's lock for a moment.
/// <https://man7.org/linux/man-pages/man3/malloc_trim.3.html>
pub fn trim() {
    // SAFETY: the argument is an integer; only memory that is free already is given back. Whether there was any says nothing.
    let _ = unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_heap_is_sound_afterwards() {
        super::limit_arenas(2);
        let mut blocks: Vec<Vec<u8>> = (0..1000).map(|size| vec![7; size * 64]).collect();
        blocks.truncate(500);
        super::trim();
        assert!(blocks.iter().all(|block| block.iter().all(|byte| *byte == 7)));
    }
}
