package compress

import (
	"bytes"
	"io"
	"os/exec"
	"syscall"
	"testing"
)

// The benchmarks measure MB of plain data per second of processor time, against the C program on the same data in the same run:
//
//	go test -run - -bench . -cpu 1 ./internal/compress

const benchSize = 32 << 20

func BenchmarkWrite(b *testing.B) {
	data := prose(benchSize)
	for _, m := range []Method{Zstd, Gzip, Lzip, Xz} {
		for _, l := range []struct {
			name  string
			level Level
			flag  string
		}{{"fastest", Fastest, map[Method]string{Zstd: "-1", Gzip: "-1", Lzip: "-0", Xz: "-0"}[m]},
			{"default", Default, map[Method]string{Zstd: "-3", Gzip: "-6", Lzip: "-6", Xz: "-6"}[m]},
			{"best", Best, map[Method]string{Zstd: "-11", Gzip: "-9", Lzip: "-9", Xz: "-9"}[m]}} {
			b.Run(string(m)+"/"+l.name+"/go", func(b *testing.B) {
				defer perProcessor(b)()
				for b.Loop() {
					packed := deflated(b, Options{Level: l.level, Workers: 1}, m, data)
					b.ReportMetric(float64(len(packed))/1e6, "MB")
				}
			})
			b.Run(string(m)+"/"+l.name+"/c", func(b *testing.B) { benchProgram(b, m, data, l.flag, "-c") })
		}
	}
}

func BenchmarkRead(b *testing.B) {
	data := prose(benchSize)
	for m, p := range peers {
		packed := p.pack(b, p.levels[1], data)
		b.Run(string(m)+"/go", func(b *testing.B) {
			b.ReportAllocs()
			defer perProcessor(b)()
			for b.Loop() {
				r, err := NewReader(m, bytes.NewReader(packed))
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, r); err != nil || n != benchSize {
					b.Fatal(n, err)
				}
				if err := r.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(string(m)+"/c", func(b *testing.B) { benchProgram(b, m, packed, "-d", "-c") })
	}
}

// perProcessor returns what reports, in the end, the speed by this process's own processor time.
func perProcessor(b *testing.B) func() {
	spent := func() float64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	before := spent()
	return func() { b.ReportMetric(benchSize/1e6*float64(b.N)/(spent()-before), "MB/cpu-s") }
}

// benchProgram counts the processor time of the program, which may use several threads.
func benchProgram(b *testing.B, m Method, in []byte, args ...string) {
	p := peers[m]
	var seconds float64
	for b.Loop() {
		cmd := exec.Command(p.name, args...)
		var out bytes.Buffer
		cmd.Stdin, cmd.Stdout = bytes.NewReader(in), &out
		if err := cmd.Run(); err != nil {
			b.Fatalf("%s %v: %v: install the Debian package %s", p.name, args, err, p.debian)
		}
		if args[0] != "-d" {
			b.ReportMetric(float64(out.Len())/1e6, "MB")
		}
		seconds += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	}
	b.ReportMetric(benchSize/1e6*float64(b.N)/seconds, "MB/cpu-s")
}
