package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// objects measures the directory store and an import into a bucket.
func (b *bench) objects() error {
	b.report.section("Object stores", `
The directory store on the disk, objects of 1300 bytes (`+"`go test -bench Put ./internal/objstore/dir`"+`), put from one goroutine: in batches that are
flushed together, and flushed one by one. Each benchmark deletes what it made, which slows down the next on ext4; so the fastest is first.`)
	b.report.table("", "objects/s", "µs per object")
	for _, pattern := range []string{"^BenchmarkPutInBatches$/^1000$", "^BenchmarkPutInBatches$/^100$", "^BenchmarkPut$"} {
		c := exec.Command("go", "test", "-run", "^$", "-bench", pattern, "-benchtime", "3000x", "./internal/objstore/dir")
		c.Dir = b.source
		c.Env = append(os.Environ(), "TMPDIR="+b.disk)
		out, err := c.CombinedOutput()
		if err != nil {
			return fmt.Errorf("go test -bench: %w\n%s", err, out)
		}
		for _, r := range parseGoBench(string(out)) {
			ns := r.values["ns/op"]
			b.report.row(r.name, figure(1e9/ns), figure(ns/1e3))
		}
	}
	return b.bucket()
}

// bucket imports 500 items into a bucket, for the record.
func (b *bench) bucket() error {
	nix, err := newNixStore(filepath.Join(b.disk, "bucket-nix"))
	if err != nil {
		return err
	}
	nix.blobs(64, 1e6)
	blobs := nix.items
	nix.items = nil
	nix.fill(435)
	nix.items = append(blobs, nix.items...)
	if err := nix.load(); err != nil {
		return err
	}
	size := 0
	for _, it := range nix.items {
		for _, f := range it.files {
			size += len(f.text)
		}
	}
	rounds := min(b.rounds, 3)
	b.report.print("\n`narfold import` of %d items, 64 of them of 1 MB of random bytes and the others small, %d MB together, into versitygw over loopback and into a directory, %d rounds:\n\n", len(nix.items), size/1e6, rounds)
	gateway, err := b.startGateway()
	if err != nil {
		return err
	}
	defer gateway.stop()
	turn := func(config func(round int, state string) ([]string, error)) func(int) (sample, error) {
		return func(round int) (sample, error) {
			args, err := config(round, filepath.Join(b.disk, fmt.Sprintf("bucket-state-%d", round)))
			if err != nil {
				return sample{}, err
			}
			wall, cpu, err := timed(exec.Command(b.narfold, append(append([]string{"import"}, args...), filepath.Join(nix.root, "store"))...))
			return sample{float64(size) / 1e6, wall, cpu}, err
		}
	}
	peers := []peer{
		{"S3, versitygw", turn(func(round int, state string) ([]string, error) {
			file := state + ".toml"
			return []string{"--config", file}, b.bucketConfig(file, state+"-s3", gateway.addr, round)
		})},
		{"directory", turn(func(_ int, state string) ([]string, error) { return []string{"--state", state}, nil })},
	}
	samples, err := alternate(rounds, peers)
	if err != nil {
		return err
	}
	b.report.table("", "MB/s", "items/s", "CPU s of narfold")
	for _, p := range peers {
		s := samples[p.name]
		perItem := float64(len(nix.items)) / s[0].done
		b.report.row(p.name, rates(s).String(), spreadOf(len(s), func(i int) float64 { return s[i].rate() * perItem }).String(),
			spreadOf(len(s), func(i int) float64 { return s[i].cpu.Seconds() }).String())
	}
	return nil
}

const (
	accessKey = "bench"
	secretKey = "benchsecret123"
)

func (b *bench) startGateway() (*server, error) {
	data, side := filepath.Join(b.disk, "gateway/data"), filepath.Join(b.disk, "gateway/attributes")
	for _, d := range []string{filepath.Join(data, "narfold"), side} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	// The attributes beside the files, since not every file system keeps them.
	c := exec.Command(b.gateway, "--port", addr, "--quiet", "--keep-alive", "--health", "/health", "posix", "--sidecar", side, data)
	c.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+accessKey, "ROOT_SECRET_KEY="+secretKey, "VGW_REGION=us-east-1")
	return startServer("versitygw", addr, "/health", c)
}

func (b *bench) bucketConfig(file, state, endpoint string, round int) error {
	credentials := state + ".credentials"
	if err := os.WriteFile(credentials, []byte(accessKey+"\n"+secretKey+"\n"), 0o600); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(strings.TrimSpace(fmt.Sprintf(`
state = %q
[objects]
endpoint = "http://%s"
bucket = "narfold"
prefix = "round-%d"
region = "us-east-1"
path_style = "path"
credentials_file = %q
`, state, endpoint, round, credentials))+"\n"), 0o644)
}
