package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// postgres is a server with a folder of its own, reached by a socket there.
type postgres struct {
	folder, bin string
	as          *syscall.Credential // nil for this process's own
	cmd         *exec.Cmd
}

// startPostgres starts PostgreSQL with Debian's settings, but for what a server of this size is always given.
func (b *bench) startPostgres() (_ *postgres, err error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return nil, errors.New("there is no /usr/lib/postgresql/*/bin/postgres; install the Debian package postgresql")
	}
	p := &postgres{folder: filepath.Join(b.disk, "pg"), bin: filepath.Dir(slices.Max(found))}
	if err := os.Mkdir(p.folder, 0o755); err != nil {
		return nil, err
	}
	if err := p.unprivileged(); err != nil {
		return nil, fmt.Errorf("choose a user for PostgreSQL, which root may not run: %w", err)
	}
	data := filepath.Join(p.folder, "data")
	if err := p.run("initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"); err != nil {
		return nil, err
	}
	p.cmd = p.command("postgres", "-D", data, "-k", p.folder, "-c", "listen_addresses=", "-c", "shared_buffers=1GB", "-c", "max_wal_size=8GB", "-c", "log_destination=stderr")
	// Should this process be killed, the server goes too.
	p.cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if err = p.run("pg_isready", "-h", p.folder, "-U", "postgres"); err == nil {
			return p, nil
		}
		if time.Now().After(deadline) {
			p.stop()
			return nil, fmt.Errorf("start PostgreSQL: %w", err)
		}
	}
}

// unprivileged gives the folder to a user who may run PostgreSQL.
func (p *postgres) unprivileged() error {
	if os.Getuid() != 0 {
		return nil
	}
	who, err := user.Lookup("postgres")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(who.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(who.Gid)
	if err != nil {
		return err
	}
	p.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(p.folder, uid, gid)
}

func (p *postgres) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(p.bin, name), args...)
	c.Dir, c.SysProcAttr = p.folder, &syscall.SysProcAttr{Credential: p.as}
	return c
}

func (p *postgres) run(name string, args ...string) error {
	if out, err := p.command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// create makes a database and returns its URL.
func (p *postgres) create(name string) (string, error) {
	err := p.run("createdb", "-h", p.folder, "-U", "postgres", name)
	return "postgres://postgres@/" + name + "?" + url.Values{"host": {p.folder}}.Encode(), err
}

// size is what all databases take in files, without the log.
func (p *postgres) size() (total int64, err error) {
	if err := p.run("psql", "-h", p.folder, "-U", "postgres", "-qc", "CHECKPOINT"); err != nil {
		return 0, err
	}
	err = filepath.WalkDir(filepath.Join(p.folder, "data", "base"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		}
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}

// stop waits for a fast shutdown.
func (p *postgres) stop() {
	_ = p.cmd.Process.Signal(os.Interrupt)
	_ = p.cmd.Wait()
}
