package s3_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"narfold/internal/objstore"
	"narfold/internal/objstore/objstoretest"
	"narfold/internal/objstore/s3"
)

func open(t testing.TB, c s3.Config) *s3.Store {
	t.Helper()
	s, err := s3.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	server := objstoretest.S3(t)
	var n atomic.Int64
	objstoretest.Run(t, func(t *testing.T) objstore.Store {
		return open(t, server.Config(fmt.Sprintf("contract/%d", n.Add(1))))
	})
}
