// Package httpfront is the HTTP/1.1 front of a substitute server: it answers what is asked most - narinfos from prepared bytes,
// nars by sendfile - in a loop of its own that allocates nothing per request, and hands every other request to net/http. A
// connection may go back and forth between the two. What the loop accepts is a strict subset of what net/http accepts; whatever
// is odd or ambiguous is net/http's to answer, so that there is one judge of it.
package httpfront

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Request is what the front asks Plain. Its bytes belong to the front and are valid until Answer returns.
type Request struct {
	Head bool   // HEAD; otherwise GET
	Path []byte // the request target as it was sent: begins with a slash, percent escapes not decoded, no query
	Host []byte // the Host field as it was sent
}

// Answer is what Plain fills in. The front resets it before each use.
type Answer struct {
	// Header is the prepared status line and header fields, each ended by CRLF, without Date, Connection and the empty line
	// at the end; make it with Head. Its Content-Length must be that of the body below, whatever the method.
	Header []byte
	// Body is the body if it is in memory. It must not change until Release is called.
	Body []byte
	// File, if not nil, is sent after Body: Length bytes from Offset. Its file position is neither used nor moved, so one
	// open file can serve many connections.
	File   *os.File
	Offset int64
	Length int64
	// Release, if not nil, is called once when the front needs none of the above any more, also if the client went away.
	// To allocate nothing, keep a func value ready instead of making a closure per request.
	Release func()
}

// Plain answers the requests that need no thought. Answer fills a and returns true, or returns false and has net/http answer.
// It is asked only for GET and HEAD over HTTP/1.1 without body, query, range, condition, authorization or upgrade. For HEAD it
// may fill in the body as for GET: the front does not send it. It is called from many goroutines; if it blocks, only the client
// that asked waits.
type Plain interface {
	Answer(r *Request, a *Answer) bool
}

// Exchange describes an answer of the fast loop for an access log. Its bytes are valid during the call.
type Exchange struct {
	Remote net.Addr
	Head   bool
	Path   []byte
	Status int
	Bytes  int64 // header and body, as far as they were handed to the kernel or to the batch that is sent next
	Cut    bool  // the client went away, or was cut, before all was sent
}

// Config says what a Server is made of. Zero durations and numbers take the defaults given beside them.
type Config struct {
	Plain Plain // required
	// HTTP answers everything else. Required with its Handler; the Server takes it over: it chains ConnState and Handler,
	// enables HTTP/2 without TLS unless Protocols is set, and fills in ReadHeaderTimeout and IdleTimeout if they are zero.
	// Leave WriteTimeout zero: the stall rule below holds for net/http's connections too and does not punish slow readers.
	HTTP *http.Server

	HeaderTimeout time.Duration // 10 s: from the first byte of a request to the end of its header
	IdleTimeout   time.Duration // 120 s: how long a connection is kept without a request
	StallTimeout  time.Duration // 60 s: in each such time a client with unread answers must take StallBytes
	StallBytes    int64         // 4096
	LingerTimeout time.Duration // 500 ms: how long a closed connection is drained, so that a reset does not destroy the answer
	Grace         time.Duration // 30 s: how long answers may take to finish after the context is cancelled
	MaxConns      int           // 16384: beyond it idle connections are closed to make room, and if there are none a 503 is sent

	Log      *slog.Logger    // events; discarded if nil
	OnAnswer func(*Exchange) // called for every answer of the fast loop, by many goroutines; nil costs nothing
}

// ErrServed is returned by a second call of Serve: a Server runs once, like the http.Server within.
var ErrServed = errors.New("front has been run already")

// Server is the front. Make it with New.
type Server struct {
	cfg  Config
	log  *slog.Logger
	http *http.Server

	toHTTP   *handoff
	stats    counters
	served   atomic.Bool
	stopping atomic.Bool
	dead     chan struct{} // closed when the grace is over

	now   atomic.Int64 // milliseconds since start, moved by the sweep
	start time.Time
	tail  atomic.Pointer[tails]

	mu    sync.Mutex
	conns map[*conn]struct{}
	byNet map[net.Conn]*conn // connections that net/http knows by this value and that have no goroutine of ours

	wg       sync.WaitGroup // connections, in the fast loop or with net/http
	handlers sync.WaitGroup // running handlers of HTTP
	refusing chan struct{}  // slots for polite refusals
}

// New checks cfg and makes a Server.
func New(cfg Config) (*Server, error) {
	if cfg.Plain == nil {
		return nil, errors.New("make front: Plain is not set")
	}
	if cfg.HTTP == nil || cfg.HTTP.Handler == nil {
		return nil, errors.New("make front: HTTP, or its Handler, is not set")
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		std   time.Duration
	}{
		{"HeaderTimeout", &cfg.HeaderTimeout, 10 * time.Second},
		{"IdleTimeout", &cfg.IdleTimeout, 120 * time.Second},
		{"StallTimeout", &cfg.StallTimeout, 60 * time.Second},
		{"LingerTimeout", &cfg.LingerTimeout, 500 * time.Millisecond},
		{"Grace", &cfg.Grace, 30 * time.Second},
	} {
		if *d.value < 0 {
			return nil, fmt.Errorf("make front: %s is %s: want a positive duration", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.std
		}
	}
	if cfg.StallBytes < 0 || cfg.MaxConns < 0 {
		return nil, fmt.Errorf("make front: StallBytes %d, MaxConns %d: want no negative numbers", cfg.StallBytes, cfg.MaxConns)
	}
	if cfg.StallBytes == 0 {
		cfg.StallBytes = 4096
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 16384
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg: cfg, log: cfg.Log, http: cfg.HTTP, start: time.Now(), dead: make(chan struct{}),
		conns: make(map[*conn]struct{}), byNet: make(map[net.Conn]*conn), refusing: make(chan struct{}, 64),
	}
	s.toHTTP = newHandoff()
	s.tick(s.start)
	s.adopt(cfg.HTTP)
	return s, nil
}

// adopt makes h the front's second half.
func (s *Server) adopt(h *http.Server) {
	if h.Protocols == nil {
		h.Protocols = new(http.Protocols)
		h.Protocols.SetHTTP1(true)
		h.Protocols.SetHTTP2(true)
		h.Protocols.SetUnencryptedHTTP2(true)
	}
	if h.ReadHeaderTimeout == 0 {
		h.ReadHeaderTimeout = s.cfg.HeaderTimeout
	}
	if h.IdleTimeout == 0 {
		h.IdleTimeout = s.cfg.IdleTimeout
	}
	next := h.Handler
	h.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.handlers.Add(1)
		defer s.handlers.Done()
		next.ServeHTTP(w, r)
	})
	hook := h.ConnState
	h.ConnState = func(nc net.Conn, st http.ConnState) {
		if hook != nil {
			hook(nc, st)
		}
		s.connState(nc, st)
	}
}
