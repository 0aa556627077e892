package s3_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"narfold/internal/objstore"
	"narfold/internal/objstore/objstoretest"
)

func BenchmarkPutSmall(b *testing.B) {
	server := objstoretest.S3(b)
	s := open(b, server.Config("bench"))
	body := objstore.Bytes(make([]byte, 1300))
	var n atomic.Int64
	ctx := b.Context()
	one := func() error {
		_, err := s.Put(ctx, objstore.Key(fmt.Sprint(n.Add(1))), body, objstore.IfAbsent)
		return err
	}
	b.Run("one by one", func(b *testing.B) {
		for b.Loop() {
			if err := one(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("8 for each processor", func(b *testing.B) {
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := one(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}
