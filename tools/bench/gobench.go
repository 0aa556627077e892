package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// goResult is one line of a Go benchmark.
type goResult struct {
	name   string // without "Benchmark" and the number of processors
	count  float64
	values map[string]float64 // by unit
}

// goBench runs benchmarks of a package of the product; benchtime as go test takes it.
func (b *bench) goBench(folder, pattern, benchtime string) ([]goResult, error) {
	c := exec.Command("go", "test", "-run", "^$", "-bench", pattern, "-benchtime", benchtime, "./"+folder)
	c.Dir = b.source
	c.Env = append(os.Environ(), "TMPDIR="+b.scratch())
	out, err := c.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test -bench in %s: %w\n%s", folder, err, out)
	}
	return parseGoBench(string(out)), nil
}

// scratch is the fastest folder there is.
func (b *bench) scratch() string {
	if b.memory != "" {
		return b.memory
	}
	return b.disk
}

func parseGoBench(out string) (results []goResult) {
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(f[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			name = name[:i]
		}
		r := goResult{name: name, values: map[string]float64{}}
		r.count, _ = strconv.ParseFloat(f[1], 64)
		for i := 2; i+1 < len(f); i += 2 {
			if v, err := strconv.ParseFloat(f[i], 64); err == nil {
				r.values[f[i+1]] = v
			}
		}
		results = append(results, r)
	}
	return results
}

// manyProcesses runs one benchmark n times at once, as many operations in each process, and returns the operations of all together.
func (b *bench) manyProcesses(folder, pattern string, n, operations int) (sample, error) {
	program := filepath.Join(b.disk, strings.ReplaceAll(folder, "/", "-")+".test")
	if _, err := os.Stat(program); err != nil {
		c := exec.Command("go", "test", "-c", "-o", program, "./"+folder)
		c.Dir = b.source
		if out, err := c.CombinedOutput(); err != nil {
			return sample{}, fmt.Errorf("go test -c of %s: %w\n%s", folder, err, out)
		}
	}
	var (
		group   sync.WaitGroup
		mu      sync.Mutex
		total   sample
		failure error
	)
	for range n {
		group.Go(func() {
			c := exec.Command(program, "-test.run", "^$", "-test.bench", pattern, "-test.benchtime", strconv.Itoa(operations)+"x", "-test.cpu", "1")
			c.Dir = filepath.Join(b.source, folder)
			out, err := c.CombinedOutput()
			results := parseGoBench(string(out))
			mu.Lock()
			defer mu.Unlock()
			if err != nil || len(results) != 1 {
				failure = fmt.Errorf("%s of %s: %w: %s", pattern, folder, err, out)
				return
			}
			total.done += float64(operations)
			// The slowest tells when all are done.
			total.wall = max(total.wall, nanoseconds(results[0].values["ns/op"]*float64(operations)))
			total.cpu += c.ProcessState.UserTime() + c.ProcessState.SystemTime()
		})
	}
	group.Wait()
	return total, failure
}
