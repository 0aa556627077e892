package sqlite

import (
	"sync"

	"modernc.org/libc"
)

// keepPages holds one allocation of every size class of SQLite's memory. The allocator unmaps a page when its last allocation is
// freed; as most statements allocate and free a single value at a time, that was a mmap and three munmaps for each of them, a sixth
// of the CPU of an import of small items.
var keepPages = sync.OnceFunc(func() {
	tls := libc.NewTLS()
	for size := 16; size <= 8<<10; size *= 2 {
		libc.Xmalloc(tls, libc.Tsize_t(size))
	}
})
