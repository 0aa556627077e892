package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// server is a process that answers HTTP.
type server struct {
	name string
	addr string
	cmd  *exec.Cmd
	log  bytes.Buffer // what it said; read after stop
}

// startServer runs a program that will listen on addr, and waits until path answers.
func startServer(name, addr, path string, cmd *exec.Cmd) (*server, error) {
	s := &server{name: name, addr: addr, cmd: cmd}
	cmd.Stdout, cmd.Stderr = &s.log, &s.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if res, err := http.Get("http://" + addr + path); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return s, nil
			}
		}
	}
	s.stop()
	return nil, fmt.Errorf("%s does not answer on %s:\n%s", name, addr, s.log.String())
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
}

// freeAddr finds a port on which nobody listens.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// cpu is the user and system time of the server and its children so far, to the hundredth of a second.
func (s *server) cpu() (time.Duration, error) {
	pid := s.cmd.Process.Pid
	pids := []string{strconv.Itoa(pid)}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err == nil {
		pids = append(pids, strings.Fields(string(children))...)
	}
	ticks := int64(0)
	for _, p := range pids {
		stat, err := os.ReadFile("/proc/" + p + "/stat")
		if err != nil {
			return 0, err
		}
		// The name, in parentheses, may hold anything; utime and stime are the 14th and 15th field (proc(5)).
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		for _, t := range f[11:13] {
			n, err := strconv.ParseInt(t, 10, 64)
			if err != nil {
				return 0, err
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

func startHerder(narfold, state string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	return startServer("narfold herder run", addr, "/nix-cache-info", exec.Command(narfold, "herder", "run", "--state", state, "--listen", addr))
}

func nginxProgram() string {
	if p, err := exec.LookPath("nginx"); err == nil {
		return p
	}
	return "/usr/sbin/nginx" // where Debian has it, which is not in everybody's PATH
}

// startNginx serves root as those do who know how: as many workers as the tests' machine has processors, sendfile, open files kept,
// connections kept, nothing logged.
func startNginx(root, state string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	user := ""
	if os.Getuid() == 0 {
		user = "user root;"
	}
	conf := fmt.Sprintf(`%[1]s daemon off; worker_processes 2; pid %[2]s/pid; error_log %[2]s/error.log;
events { worker_connections 4096; }
http {
	access_log off; log_not_found off; sendfile on; tcp_nopush on; keepalive_requests 100000000; keepalive_timeout 120s;
	open_file_cache max=4096 inactive=60s; open_file_cache_valid 60s; open_file_cache_errors on;
	types { text/x-nix-narinfo narinfo; } default_type application/x-nix-nar;
	client_body_temp_path %[2]s/b; proxy_temp_path %[2]s/p; fastcgi_temp_path %[2]s/f; uwsgi_temp_path %[2]s/u; scgi_temp_path %[2]s/s;
	server { listen %[3]s; root %[4]s; location ~ narinfo$ { add_header Cache-Control max-age=129600; } }
}
`, user, state, addr, root)
	file := filepath.Join(state, "nginx.conf")
	if err := errors.Join(os.MkdirAll(state, 0o755), os.WriteFile(file, []byte(conf), 0o644)); err != nil {
		return nil, err
	}
	return startServer("nginx", addr, "/nix-cache-info", exec.Command(nginxProgram(), "-e", state+"/error.log", "-c", file))
}

// mirror copies what a server answers under paths into a directory, so that another serves the same bytes.
func (s *server) mirror(dir string, paths []string) error {
	for _, p := range paths {
		res, err := http.Get("http://" + s.addr + p)
		if err != nil {
			return err
		}
		name := filepath.Join(dir, filepath.FromSlash(p))
		err = os.MkdirAll(filepath.Dir(name), 0o755)
		var f *os.File
		if err == nil {
			f, err = os.Create(name)
		}
		if err == nil {
			_, err = io.Copy(f, res.Body)
			f.Close()
		}
		res.Body.Close()
		if err == nil && res.StatusCode != http.StatusOK {
			err = errors.New(res.Status)
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", p, err)
		}
	}
	return nil
}
