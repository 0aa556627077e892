package compress

import (
	"bytes"
	"io"
)

// encodeFunc compresses a piece of the input by itself and appends the result to dst. It is called by several goroutines at once.
type encodeFunc func(dst *bytes.Buffer, piece []byte) error

// pieces compresses pieces of the input in parallel, each into a member, frame or stream of its own, and writes the results in
// order from the goroutine that calls Write and Close. There is at least one piece, since an empty input is not an empty output.
type pieces struct {
	w       io.Writer
	size    int
	encode  encodeFunc
	workers int

	fill    []byte // the piece being collected
	wrote   bool   // a piece was sent
	running []*piece
	idle    []*piece // kept for their buffers
	err     error
}

type piece struct {
	in   []byte
	out  bytes.Buffer
	err  error
	done chan struct{} // closed when out and err are set
}

func newPieces(w io.Writer, size, workers int, encode encodeFunc) *pieces {
	return &pieces{w: w, size: size, workers: workers, encode: encode}
}

func (s *pieces) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && s.err == nil {
		// A piece is sent when it is known that another follows, so that the last is never empty.
		if len(s.fill) == s.size {
			s.send()
			continue
		}
		k := min(len(p), s.size-len(s.fill))
		s.fill = append(s.fill, p[:k]...)
		p = p[k:]
	}
	return n - len(p), s.err
}

// send starts work on what is collected, after waiting for the oldest work if there are no more workers.
func (s *pieces) send() {
	if len(s.running) == s.workers {
		s.collect()
	}
	j := new(piece)
	if n := len(s.idle); n > 0 {
		j, s.idle = s.idle[n-1], s.idle[:n-1]
	}
	j.in, s.fill = s.fill, j.in[:0]
	j.done = make(chan struct{})
	s.wrote = true
	s.running = append(s.running, j)
	go func() {
		defer close(j.done)
		j.out.Reset()
		j.err = s.encode(&j.out, j.in)
	}()
}

// collect waits for the oldest work and writes its result.
func (s *pieces) collect() {
	j := s.running[0]
	s.running = s.running[1:]
	<-j.done
	if s.err == nil {
		s.err = j.err
	}
	if s.err == nil {
		_, s.err = s.w.Write(j.out.Bytes())
	}
	s.idle = append(s.idle, j)
}

func (s *pieces) Close() error {
	if s.err == nil && (len(s.fill) > 0 || !s.wrote) {
		s.send()
	}
	for len(s.running) > 0 {
		s.collect()
	}
	s.fill, s.idle = nil, nil
	return s.err
}
