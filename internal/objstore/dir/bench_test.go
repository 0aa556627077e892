package dir_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"narfold/internal/objstore"
	"narfold/internal/objstore/dir"
)

// A narinfo is about this long.
var narinfo = make([]byte, 1300)

func BenchmarkPlainWrite(b *testing.B) {
	root := b.TempDir()
	for i := 0; b.Loop(); i++ {
		if err := os.WriteFile(filepath.Join(root, fmt.Sprint(i)), narinfo, 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

func store(b *testing.B) *dir.Store {
	s, err := dir.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

func BenchmarkPut(b *testing.B) {
	s := store(b)
	for i := 0; b.Loop(); i++ {
		if _, err := s.Put(b.Context(), objstore.Key(fmt.Sprint(i)), objstore.Bytes(narinfo), objstore.IfAbsent); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPutInBatches(b *testing.B) {
	for _, size := range []int{100, 1000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := store(b)
			batch := s.Batch()
			for i := 0; b.Loop(); i++ {
				if _, err := batch.Put(b.Context(), objstore.Key(fmt.Sprint(i)), objstore.Bytes(narinfo), objstore.IfAbsent); err != nil {
					b.Fatal(err)
				}
				if i%size == size-1 {
					if err := batch.Commit(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	s := store(b)
	for i := range 1000 {
		if _, err := s.Batch().Put(b.Context(), objstore.Key(fmt.Sprint(i)), objstore.Bytes(narinfo), objstore.IfAbsent); err != nil {
			b.Fatal(err)
		}
	}
	buf := make([]byte, 2000)
	for i := 0; b.Loop(); i++ {
		o, err := s.Get(b.Context(), objstore.Key(fmt.Sprint(i%1000)), objstore.Range{})
		if err != nil {
			b.Fatal(err)
		}
		if n, err := o.Read(buf); n != len(narinfo) || err != nil {
			b.Fatal(n, err)
		}
		o.Close()
	}
}

func BenchmarkList(b *testing.B) {
	s := store(b)
	batch := s.Batch()
	const n = 20_000
	for i := range n {
		if _, err := batch.Put(b.Context(), objstore.Key(fmt.Sprintf("%032d.narinfo", i*7919%n)), objstore.Bytes(nil), objstore.IfAbsent); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		seen := 0
		for _, err := range s.List(b.Context(), "") {
			if err != nil {
				b.Fatal(err)
			}
			seen++
		}
		if seen != n {
			b.Fatal(seen)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/key")
}
