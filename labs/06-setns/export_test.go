package setns

import "unsafe"

// addressOf is what a [Call] needs of memory.
func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }
