package objstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"narfold/internal/objstore/s3"
)

// Server is a real S3 server (versitygw, pinned by the module in tools/) on the loopback address, with one bucket, that keeps
// objects as files.
type Server struct {
	Endpoint  string // "http://127.0.0.1:PORT"
	Bucket    string
	Region    string
	AccessKey string
	SecretKey string

	cancel context.CancelFunc
	ended  chan struct{}
	err    error // why the process ended; written before ended is closed
	log    syncBuffer
}

// Config says how to reach the bucket, below a prefix if that is not empty.
func (s *Server) Config(prefix string) s3.Config {
	return s3.Config{Endpoint: s.Endpoint, Bucket: s.Bucket, Region: s.Region, AccessKey: s.AccessKey, SecretKey: s.SecretKey, Prefix: prefix}
}

// S3 starts a server for a test and stops it at its end.
func S3(t testing.TB) *Server {
	t.Helper()
	s, err := StartS3(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// StartS3 starts a server on a free port that keeps its files in dir, and returns when it answers. It runs until Stop is called, ctx
// ends or this process does. The first call on a machine builds the server, which takes minutes.
func StartS3(ctx context.Context, dir string) (*Server, error) {
	program, err := buildServer(ctx)
	if err != nil {
		return nil, fmt.Errorf("build S3 server: %w", err)
	}
	data, side := filepath.Join(dir, "data"), filepath.Join(dir, "attributes")
	for _, d := range []string{filepath.Join(data, "narfold"), side} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("start S3 server: %w", err)
		}
	}
	args := []string{"--quiet", "--keep-alive", "--health", "/health", "posix"}
	if err := unix.Setxattr(data, "user.narfold", []byte("x"), 0); err != nil {
		args = append(args, "--sidecar", side) // this file system keeps no attributes
	}
	args = append(args, data)
	// Another process may take the port between its choice and the server's start.
	for range 5 {
		var s *Server
		if s, err = start(ctx, program, args); err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("start S3 server: %w", err)
}

func start(ctx context.Context, program string, args []string) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	l.Close()
	s := &Server{
		Endpoint: "http://" + addr, Bucket: "narfold", Region: "us-east-1", AccessKey: "test", SecretKey: "testsecret123",
		ended: make(chan struct{}),
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	s.cancel = func() { stop(); cancel() }
	cmd := exec.CommandContext(run, program, append([]string{"--port", addr}, args...)...)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey, "VGW_REGION="+s.Region)
	cmd.Stdout, cmd.Stderr = &s.log, &s.log
	// It must not outlive a test that is killed. The kernel sends this signal when the thread that started it ends, so one is kept.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(s.ended)
		s.err = cmd.Run()
	}()
	if err := s.ready(ctx); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// ready waits until the server answers.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+"/health", nil)
		if err != nil {
			return err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-s.ended:
			return fmt.Errorf("it ended: %w: %s", s.err, s.log.String())
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w: %s", ctx.Err(), s.log.String())
		case <-again.C:
		}
	}
}

// Stop kills the server and waits for its end.
func (s *Server) Stop() {
	s.cancel()
	<-s.ended
}

// buildServer returns the path of the server's program in .cache/bin of this repository, and builds it there if it is missing.
func buildServer(ctx context.Context) (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, ".cache", "bin")
	program := filepath.Join(bin, "versitygw")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	// Tests of several packages run at once, and one of them builds.
	lock, err := os.OpenFile(filepath.Join(bin, ".lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program+".new", "github.com/versity/versitygw/cmd/versitygw")
	cmd.Dir = filepath.Join(root, "tools")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build in %s: %w: %s", cmd.Dir, err, out)
	}
	return program, os.Rename(program+".new", program)
}

// repository returns the folder of this module, from the working directory upwards.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(b, []byte("module narfold\n")) {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			return "", errors.New("the working directory is not in this repository")
		}
		dir = filepath.Dir(dir)
	}
}

// syncBuffer keeps the first 64 KiB of what a process says.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b.Write(p[:min(len(p), max(0, 64<<10-b.b.Len()))])
	return len(p), nil
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
