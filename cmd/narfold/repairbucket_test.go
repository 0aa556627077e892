package main

import (
	"strings"
	"testing"

	"narfold/internal/catalog"
	"narfold/internal/compress"
	"narfold/internal/objstore"
	"narfold/internal/objstore/objstoretest"
	"narfold/internal/objstore/s3"
)

func TestObjectsInABucketAreRepaired(t *testing.T) {
	server := objstoretest.S3(t)
	config := bucketConfig(t, server, server.Bucket, server.AccessKey, server.SecretKey)
	cache, p := cacheOf(t, "afar", strings.Repeat("in a bucket, ", 3000))
	must(t, nil, "import", "--config", config, cache)
	store, err := s3.New(server.Config("herder"))
	if err != nil {
		t.Fatal(err)
	}
	k := catalog.NarKey(compress.Zstd, p.path.Base, 1)
	changed := append([]byte(nil), p.nar...)
	changed[len(changed)/2] ^= 0x10
	spoil := func(b []byte) {
		t.Helper()
		if _, err := store.Put(t.Context(), k, objstore.Bytes(b), objstore.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	spoil(changed)
	repaired(t, exitDone, []string{"corrupt: its bytes have changed", "1 restored"}, "--config", config, "--deep", cache)
	spoil(changed[:7])
	repaired(t, exitDone, []string{"size: the object has 7 bytes", "1 restored"}, "--config", config, cache)
	if err := store.Delete(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	repaired(t, exitDone, []string{"missing: the object is not in the store", "1 restored"}, "--config", config, cache)
	checked(t, exitDone, []string{"1 published items with 1 files", "all is well"}, "--config", config, "--deep", "--quiet", "--older-than", "0s")
}
