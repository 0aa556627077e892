package compress

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// The libraries through which Guix reads, called as Guix calls them: a port over the file, read to its end, and then whatever
// is left of the file, which would be taken for the next answer on a connection.
const guileReader = `
(use-modules (zlib) (lzlib) (zstd) (ice-9 binary-ports) (ice-9 match) (rnrs bytevectors))
(define (expand port method)
  (match method
    ("none" port)
    ("zstd" (make-zstd-input-port port #:close? #f))
    ("lzip" (make-lzip-input-port port))
    ("gzip" (make-zlib-input-port port #:format 'gzip #:close? #f))))
(define (check method packed plain)
  (let* ((file (open-file packed "rb"))
         (got (get-bytevector-all (expand file method)))
         (want (call-with-input-file plain get-bytevector-all #:binary #t)))
    (unless (equal? got want)
      (format #t "~a ~a: ~a bytes, want ~a~%" method packed
              (if (bytevector? got) (bytevector-length got) got) (if (bytevector? want) (bytevector-length want) want))
      (exit 1))
    (unless (or (string=? method "lzip") (eof-object? (get-u8 file)))
      (format #t "~a ~a: input is left unread~%" method packed)
      (exit 1))))
(let next ((arguments (cdr (command-line))))
  (match arguments
    (() #t)
    ((method packed plain . more)
     (check method packed plain)
     (next more))))
`

// guixReads runs the script over a method, a packed file and a plain file, and so on.
func guixReads(t *testing.T, script string, files ...string) {
	t.Helper()
	run(t, "guile-3.0 guile-zlib guile-lzlib guile-zstd", nil, "guile", append([]string{"--no-auto-compile", script}, files...)...)
}

func TestProgramsAndGuixReadWhatIsWritten(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "read.scm")
	save := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	save("read.scm", []byte(guileReader))
	samples := map[string][]byte{
		"a byte": {'x'}, "noise": noise(150_000), "prose": prose(150_000),
	}
	for _, m := range writable {
		for oname, o := range map[string]Options{
			"fastest": {Level: Fastest}, "default": {}, "best": {Level: Best},
			"frames": {Level: Fastest, Frames: true}, "programs": {Level: Fastest, Programs: true},
		} {
			if !matters(o, m) {
				continue
			}
			t.Run(string(m)+" "+oname, func(t *testing.T) {
				these := maps.Clone(samples)
				if o.Level == Fastest {
					these["more than a piece"] = long()
				}
				var forGuix []string
				for name, data := range these {
					packed := deflated(t, o, m, data)
					if m != None {
						p := peers[m]
						run(t, p.debian, packed, p.name, "-t")
						if got := run(t, p.debian, packed, p.name, "-d", "-c"); !bytes.Equal(got, data) {
							t.Errorf("%s: %s reads %d bytes that differ from %d", name, p.name, len(got), len(data))
						}
					}
					if m != Xz { // Guix reads xz through the program
						forGuix = append(forGuix, string(m), save(name+" packed", packed), save(name+" plain", data))
					}
				}
				if m != Xz {
					guixReads(t, script, forGuix...)
				}
			})
		}
	}
	t.Run("frames of several windows", func(t *testing.T) {
		data := bytes.Repeat(prose(1<<20), zstdFrame>>20+1)
		packed := deflated(t, Options{Frames: true}, Zstd, data)
		guixReads(t, script, "zstd", save("packed", packed), save("plain", data))
	})
	t.Run("an empty input", func(t *testing.T) {
		for _, m := range []Method{Zstd, Gzip, Lzip, Xz} {
			for _, o := range []Options{{}, {Frames: true, Programs: true}} {
				if got := run(t, peers[m].debian, deflated(t, o, m, nil), peers[m].name, "-d", "-c"); len(got) != 0 {
					t.Errorf("%s: %d bytes", m, len(got))
				}
			}
		}
	})
}

func TestNoGoroutineOutlivesItsOwner(t *testing.T) {
	data := noise(200_000)
	packed := damaged(t, data[:100_000])
	before := runtime.NumGoroutine()
	for m, p := range packed {
		for _, n := range []int{0, len(p) / 2, len(p)} {
			r, err := NewReader(m, bytes.NewReader(p[:n]))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Read(make([]byte, 1000)); err != nil && !typed(err) {
				t.Error(m, err)
			}
			if err := r.Close(); err != nil {
				t.Error(m, err)
			}
		}
	}
	for _, m := range writable {
		for _, room := range []int64{1000, 1 << 40} {
			for _, o := range []Options{{Level: Fastest}, {Level: Fastest, Frames: true, Programs: true}} {
				w, err := o.NewWriter(m, &full{room: room})
				if err != nil {
					t.Fatal(err)
				}
				_, werr := w.Write(data)
				cerr := w.Close()
				if room == 1000 && cerr == nil || room > 1000 && (werr != nil || cerr != nil) {
					t.Errorf("%s, room for %d: %v, %v", m, room, werr, cerr)
				}
			}
		}
	}
	// A goroutine that has closed its channel may still be on its way out.
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(end); {
		runtime.Gosched()
	}
	if now := runtime.NumGoroutine(); now > before {
		stacks := make([]byte, 1<<20)
		t.Errorf("%d goroutines before, %d after:\n%s", before, now, stacks[:runtime.Stack(stacks, true)])
	}
}
