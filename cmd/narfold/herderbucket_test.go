package main

import (
	"fmt"
	"html"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"narfold/internal/objstore/objstoretest"
)

// bucketConfig writes a configuration whose objects are in a bucket of server, with two lines of credentials.
func bucketConfig(t *testing.T, server *objstoretest.Server, bucket, access, secret string) string {
	t.Helper()
	credentials := spit(t, filepath.Join(t.TempDir(), "credentials"), []byte(access+"\n"+secret+"\n"))
	file, _ := configFile(t, fmt.Sprintf("[publish]\nreserve = '0'\n[objects]\nendpoint = %q\nbucket = %q\nregion = %q\nprefix = 'herder'\ncredentials_file = %q\n", server.Endpoint, bucket, server.Region, credentials))
	return file
}

func TestABucketThatWillNotDoIsRefusedAtTheStart(t *testing.T) {
	server := objstoretest.S3(t)
	gone := objstoretest.S3(t)
	gone.Stop()
	for name, c := range map[string]struct {
		server         *objstoretest.Server
		bucket, secret string
		code           exitCode
		says           string
	}{
		"wrong secret":   {server, server.Bucket, "not-the-secret", exitRefused, "the server refuses to let this access key see the bucket; check the access key, the secret key"},
		"missing bucket": {server, "no-such-bucket", server.SecretKey, exitUnavailable, `the server has no bucket "no-such-bucket"; create it, or correct its name or the region`},
		"no server":      {gone, gone.Bucket, gone.SecretKey, exitUnavailable, "the server cannot be reached; check the endpoint and the network between"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := bucketConfig(t, c.server, c.bucket, c.server.AccessKey, c.secret)
			_, stderr, code := narfold(t, nil, "herder", "run", "--config", file)
			said := lastLine(strings.TrimSpace(stderr))
			if code != c.code || !strings.HasPrefix(said, "narfold: open object store: probe bucket "+c.bucket+" at ") || !strings.Contains(said, c.says) {
				t.Errorf("exit code %d, said %q", code, stderr)
			}
			if strings.Contains(stderr, c.secret) {
				t.Error("it tells the secret")
			}
			// A token can be made, and ended, whatever the bucket does.
			must(t, nil, "token", "create", "--config", file, "--scope", "publish", "--name", "x")
			must(t, nil, "token", "revoke", "--config", file, "x")
		})
	}
}

func TestAHerderOnABucket(t *testing.T) {
	server := objstoretest.S3(t)
	file := bucketConfig(t, server, server.Bucket, server.AccessKey, server.SecretKey)
	cache, p := cacheOf(t, "afar", "in a bucket")
	must(t, nil, "import", "--config", file, cache)
	s := startService(t, serviceOptions{args: []string{"--config", file}})
	for path, want := range map[string]string{"/readyz": "ready\n", "/nar/zstd/" + string(p.path.Base): string(p.nar)} {
		if r := get(t, s.url()+path); r.status != http.StatusOK || r.body != want {
			t.Errorf("%s: %d %.100q", path, r.status, r.body)
		}
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestTheBucketsCredentialsComeFromTheServiceManager(t *testing.T) {
	server := objstoretest.S3(t)
	credentials := t.TempDir()
	spit(t, filepath.Join(credentials, "narfold.s3"), []byte(server.AccessKey+"\n"+server.SecretKey+"\n"))
	must(t, nil, "key", "generate", "--dialect", "nix", "--name", "vault-1", "--secret", filepath.Join(credentials, "narfold.nix-key"), "--public", filepath.Join(credentials, "public"))
	file, _ := configFile(t, fmt.Sprintf("[objects]\nendpoint = %q\nbucket = %q\nregion = %q\n", server.Endpoint, server.Bucket, server.Region))
	s := startService(t, serviceOptions{args: []string{"--config", file}, env: []string{"CREDENTIALS_DIRECTORY=" + credentials}})
	if r := get(t, s.url()+"/"); !strings.Contains(html.UnescapeString(r.body), strings.TrimSpace(string(slurp(t, filepath.Join(credentials, "public"))))) {
		t.Errorf("the page for people does not show the key: %d %s", r.status, r.body)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
