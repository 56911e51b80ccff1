// SPDX-License-Identifier: Apache-2.0
//! `memcpy`, `memmove`, `memcmp` and `bcmp` (ISO C 7.26.2, 7.26.4; POSIX.1-2001 for `bcmp`) with what every x86-64 has.
//!
//! What programs copy and compare is short: of up to [`FEW`] bytes everything is read before anything is written, so that
//! overlap does not matter, in pieces that overlap where the length is none of theirs. More is copied [`STEP`] bytes at a
//! time from the end that overlap allows.

use std::arch::x86_64::{__m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_storeu_si128};
use std::ffi::{c_int, c_void};

/// Up to how many bytes are read before any is written.
const FEW: usize = 128;

/// How many bytes are copied at a time.
const STEP: usize = 64;

const HALF: usize = STEP / 2;

/// Copies `count` bytes from `from` to `to`, and returns `to`.
///
/// # Safety
/// Both are valid for `count` bytes.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn memcpy(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void {
    // SAFETY: as the caller says.
    unsafe { copy(to.cast(), from.cast(), count) };
    to
}

/// Like [`memcpy`], where both may overlap.
///
/// # Safety
/// Both are valid for `count` bytes.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn memmove(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void {
    // SAFETY: as the caller says.
    unsafe { copy(to.cast(), from.cast(), count) };
    to
}

/// Compares `count` bytes: below, equal to or above 0, as the first that differ do.
///
/// # Safety
/// Both are valid for `count` bytes.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn memcmp(one: *const c_void, other: *const c_void, count: usize) -> c_int {
    // SAFETY: as the caller says.
    unsafe { compare(one.cast(), other.cast(), count) }
}

/// Whether `count` bytes differ: 0 if they do not.
///
/// # Safety
/// Both are valid for `count` bytes.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn bcmp(one: *const c_void, other: *const c_void, count: usize) -> c_int {
    // SAFETY: as the caller says.
    unsafe { compare(one.cast(), other.cast(), count) }
}

#[inline(always)]
unsafe fn copy(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: no piece goes beyond `count` bytes of either, since each branch is taken with as many as its pieces have.
    unsafe {
        match count {
            0 => {}
            1 => *to = *from,
            2..=3 => ends::<u16>(to, from, count),
            4..=7 => ends::<u32>(to, from, count),
            8..=15 => ends::<u64>(to, from, count),
            16..=32 => ends::<__m128i>(to, from, count),
            33..=STEP => {
                let last = count - HALF;
                let (first, end) = (load_half(from), load_half(from.add(last)));
                store_half(to, first);
                store_half(to.add(last), end);
            }
            65..=FEW => {
                let last = count - STEP;
                let (first, end) = (load(from), load(from.add(last)));
                store(to, first);
                store(to.add(last), end);
            }
            _ if (to as usize).wrapping_sub(from as usize) >= count => forwards(to, from, count),
            _ => backwards(to, from, count),
        }
    }
}

/// Copies the first and the last piece of `count` bytes.
#[inline(always)]
unsafe fn ends<P>(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: a piece is not longer than `count`.
    unsafe {
        let (first, last) = outer::<P>(from, count);
        to.cast::<P>().write_unaligned(first);
        to.add(count - size_of::<P>()).cast::<P>().write_unaligned(last);
    }
}

/// Reads the first and the last piece of `count` bytes.
#[inline(always)]
unsafe fn outer<P>(of: *const u8, count: usize) -> (P, P) {
    // SAFETY: the caller has `count` bytes there, and a piece is not longer.
    unsafe {
        (
            of.cast::<P>().read_unaligned(),
            of.add(count - size_of::<P>()).cast::<P>().read_unaligned(),
        )
    }
}

/// Copies more than [`STEP`] bytes, the first ones first: what is read has not been written to.
unsafe fn forwards(to: *mut u8, from: *const u8, count: usize) {
    let last = count - STEP;
    // SAFETY: every step is within `count` bytes, for it begins before the last.
    unsafe {
        let end = load(from.add(last));
        let mut at = 0;
        while at < last {
            store(to.add(at), load(from.add(at)));
            at += STEP;
        }
        store(to.add(last), end);
    }
}

/// Copies more than [`STEP`] bytes, the last ones first.
unsafe fn backwards(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: every step is within `count` bytes, for it ends behind the first.
    unsafe {
        let first = load(from);
        let mut at = count;
        while at > STEP {
            at -= STEP;
            store(to.add(at), load(from.add(at)));
        }
        store(to, first);
    }
}

/// Reads [`STEP`] bytes.
#[inline(always)]
unsafe fn load(from: *const u8) -> [(__m128i, __m128i); 2] {
    // SAFETY: the caller has as many.
    unsafe { [load_half(from), load_half(from.add(HALF))] }
}

/// Writes [`STEP`] bytes.
#[inline(always)]
unsafe fn store(to: *mut u8, [first, second]: [(__m128i, __m128i); 2]) {
    // SAFETY: the caller has as many.
    unsafe {
        store_half(to, first);
        store_half(to.add(HALF), second);
    }
}

#[inline(always)]
unsafe fn load_half(from: *const u8) -> (__m128i, __m128i) {
    // SAFETY: the caller has [`HALF`] bytes there.
    unsafe { (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(16).cast())) }
}

#[inline(always)]
unsafe fn store_half(to: *mut u8, (first, second): (__m128i, __m128i)) {
    // SAFETY: the caller has [`HALF`] bytes there.
    unsafe {
        _mm_storeu_si128(to.cast(), first);
        _mm_storeu_si128(to.add(16).cast(), second);
    }
}

#[inline(always)]
unsafe fn compare(one: *const u8, other: *const u8, count: usize) -> c_int {
    // SAFETY: as in `copy`.
    unsafe {
        match count {
            0 => 0,
            1 => c_int::from(*one) - c_int::from(*other),
            2..=3 => words(one, other, count, u16::from_be),
            4..=7 => words(one, other, count, u32::from_be),
            8..=16 => words(one, other, count, u64::from_be),
            _ => long(one, other, count),
        }
    }
}

/// Compares by the first and the last word, which cover all bytes; `be` makes numbers of them that are ordered alike.
#[inline(always)]
unsafe fn words<W: Ord>(one: *const u8, other: *const u8, count: usize, be: fn(W) -> W) -> c_int {
    let numbers = |of| {
        // SAFETY: a word is not longer than `count`.
        let (first, last) = unsafe { outer::<W>(of, count) };
        (be(first), be(last))
    };
    numbers(one).cmp(&numbers(other)) as c_int
}

/// Compares more than 16 bytes.
unsafe fn long(one: *const u8, other: *const u8, count: usize) -> c_int {
    let last = count - size_of::<__m128i>();
    let mut at = 0;
    loop {
        // SAFETY: `at` is not behind the last piece.
        let differ = unsafe {
            let (one, other) = (one.add(at).cast(), other.add(at).cast());
            !_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128(one), _mm_loadu_si128(other))) & 0xffff
        };
        if differ != 0 {
            let at = at + differ.trailing_zeros() as usize;
            // SAFETY: it is one of the bytes just read.
            return unsafe { c_int::from(*one.add(at)) - c_int::from(*other.add(at)) };
        }
        if at == last {
            return 0;
        }
        at = (at + size_of::<__m128i>()).min(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beyond what is copied at once, twice.
    const MOST: usize = 2 * FEW + STEP + 1;

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|at| (at * 31 + at / 7) as u8).collect()
    }

    #[test]
    fn every_length_is_copied_with_every_overlap_and_nothing_beside_it() {
        for count in 0..=MOST {
            for distance in -(FEW as isize)..=FEW as isize {
                let (from, to) = (2 * FEW, (2 * FEW).wrapping_add_signed(distance));
                let mut memory = bytes(4 * FEW + MOST);
                let mut expected = memory.clone();
                expected.copy_within(from..from + count, to);
                let start = memory.as_mut_ptr();
                // SAFETY: both are within `memory`.
                let answer = unsafe { memmove(start.add(to).cast(), start.add(from).cast(), count) };
                assert_eq!(answer.addr(), start.addr() + to);
                assert!(memory == expected, "{count} bytes, {distance} away");
            }
        }
    }

    #[test]
    fn every_length_is_copied_elsewhere() {
        for count in 0..=MOST {
            let (from, mut to) = (bytes(count), vec![0xee; count + 2]);
            // SAFETY: `to` has `count` bytes behind its first.
            unsafe { memcpy(to.as_mut_ptr().add(1).cast(), from.as_ptr().cast(), count) };
            assert_eq!((to[0], &to[1..=count], to[count + 1]), (0xee, &from[..], 0xee));
        }
    }

    #[test]
    fn the_first_bytes_that_differ_decide() {
        for count in 0..=MOST {
            let one = bytes(count);
            let compare = |one: &[u8], other: &[u8]| {
                let (one, other) = (one.as_ptr().cast(), other.as_ptr().cast());
                // SAFETY: both have `count` bytes.
                unsafe { (memcmp(one, other, count), bcmp(one, other, count)) }
            };
            assert_eq!(compare(&one, &one.clone()), (0, 0));
            for at in 0..count {
                for other in [0x00, 0x7f, 0x80, 0xff] {
                    let mut changed = one.clone();
                    changed[at] = other;
                    // What comes behind decides nothing.
                    changed[at + 1..].reverse();
                    let (ordered, differ) = compare(&one, &changed);
                    let expected = one.cmp(&changed) as c_int;
                    assert_eq!(ordered.signum(), expected, "{count} bytes, at {at}");
                    assert_eq!(differ != 0, expected != 0);
                }
            }
        }
    }
}
