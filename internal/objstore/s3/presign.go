package s3

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"narfold/internal/objstore"
)

// PresignGet returns a URL that answers GET and ranges of it. ttl is between a second and seven days, which is the most that the
// signature allows.
func (s *Store) PresignGet(ctx context.Context, k objstore.Key, ttl time.Duration) (string, error) {
	u, err := s.presign(ctx, http.MethodGet, k, ttl, nil)
	return u, wrap("presign get of", k, err)
}

// PresignPut signs the condition and the length with the URL, so that who holds it can neither replace an object nor store another
// size. What is stored is not verified by anybody yet.
func (s *Store) PresignPut(ctx context.Context, k objstore.Key, size int64, ttl time.Duration) (string, map[string]string, error) {
	if size < 0 {
		return "", nil, wrap("presign put of", k, fmt.Errorf("size %d", size))
	}
	header := http.Header{}
	header.Set("If-None-Match", "*")
	header.Set("Content-Length", strconv.FormatInt(size, 10))
	u, err := s.presign(ctx, http.MethodPut, k, ttl, header)
	if err != nil {
		return "", nil, wrap("presign put of", k, err)
	}
	return u, map[string]string{"If-None-Match": "*", "Content-Length": header.Get("Content-Length")}, nil
}

func (s *Store) presign(ctx context.Context, method string, k objstore.Key, ttl time.Duration, header http.Header) (string, error) {
	name, err := s.begin(ctx, k)
	if err != nil {
		return "", err
	}
	return s.sign(ctx, method, name, ttl, header)
}

func (s *Store) sign(ctx context.Context, method, name string, ttl time.Duration, header http.Header) (string, error) {
	u, err := s.api.PresignHeader(ctx, method, s.conf.Bucket, name, ttl, nil, header)
	if err != nil {
		return "", err
	}
	return u.String(), nil
}
