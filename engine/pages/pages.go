// Package pages is memory that can be handed back to the kernel the moment it is not needed.
//
// A process that holds a container for weeks is busy for moments. What it allocated in such a moment would stay with it:
// Go's collector runs when the heap has grown by a few megabytes, which never comes, or after two minutes, and returns
// pages later still. A [Buffer] lies outside of Go's heap, in an anonymous mapping (mmap(2)). Its pages appear as they are
// written, four kilobytes at a time, and [Buffer.Release] gives them back at once (madvise(2), MADV_DONTNEED); the address
// stays good and reads as zeroes. There is nothing to free and so nothing to use after it was freed.
//
// It is meant for a handful of long-lived buffers. Anything else belongs on the heap.
package pages

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Buffer is a block of memory of a fixed size. It takes no memory until it is written. It is not safe for concurrent use.
type Buffer struct {
	mem   []byte
	dirty bool
}

// Get returns the memory, of at least size bytes, which is asked for at the first call; later sizes must not be larger.
// The contents are what was written since the last Release.
func (b *Buffer) Get(size int) []byte {
	if b.mem == nil {
		mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			// Out of address space, or a limit on it (RLIMIT_AS): the heap will say what is to be said.
			mem = make([]byte, size)
		}
		b.mem = mem
	}
	if size > len(b.mem) {
		panic(fmt.Sprintf("pages: buffer of %d bytes asked for %d", len(b.mem), size))
	}
	b.dirty = true
	return b.mem[:size]
}

// Release hands the pages back. What they held is gone.
func (b *Buffer) Release() {
	if !b.dirty {
		return
	}
	// The one error that is possible here is EINVAL, for memory that came from the heap and is not aligned. It stays.
	_ = unix.Madvise(b.mem, unix.MADV_DONTNEED)
	b.dirty = false
}
