package httpfront

import "sync/atomic"

// Stats counts since New. An answer is counted after the batch that it is in was sent. Answers are those of the fast loop; net/http's are for its handler to count.
type Stats struct {
	Accepted uint64 // connections
	Open     int64  // connections now, wherever they are
	Refused  uint64 // connections answered 503, or closed, because MaxConns were open
	Evicted  uint64 // idle connections closed to make room
	Slow     uint64 // connections cut because a header did not end
	Stalled  uint64 // connections cut because the client took nothing

	Answers [6]uint64 // by the first digit of the status; 0 if the prepared header has none
	Bytes   uint64    // headers and bodies handed to the kernel
	Lent    uint64    // requests, or connections for good, handed to net/http
}

const shards = 16

// shard is written by the connections that share it, one in sixteen; the padding keeps it in cache lines of its own.
type shard struct {
	answers [6]atomic.Uint64
	bytes   atomic.Uint64
	lent    atomic.Uint64
	_       [64]byte
}

type counters struct {
	accepted, refused, evicted, slow, stalled atomic.Uint64
	open                                      atomic.Int64
	shards                                    [shards]shard
}

// tally counts for one connection until its batch is sent.
type tally struct {
	answers [6]uint64
	bytes   uint64
	lent    uint64
	any     bool
}

func (t *tally) add(status int, bytes int64) {
	class := status / 100
	if class > 5 {
		class = 0
	}
	t.answers[class]++
	t.bytes += uint64(bytes)
	t.any = true
}

// tallyUp moves the tally to where Stats sees it.
func (c *conn) tallyUp() {
	if !c.tally.any && c.tally.lent == 0 {
		return
	}
	for i, n := range c.tally.answers {
		if n > 0 {
			c.shard.answers[i].Add(n)
		}
	}
	c.shard.bytes.Add(c.tally.bytes)
	if c.tally.lent > 0 {
		c.shard.lent.Add(c.tally.lent)
	}
	c.tally = tally{}
}

// Stats adds up the counters. It may be called at any time.
func (s *Server) Stats() Stats {
	c := &s.stats
	st := Stats{
		Accepted: c.accepted.Load(), Open: c.open.Load(), Refused: c.refused.Load(),
		Evicted: c.evicted.Load(), Slow: c.slow.Load(), Stalled: c.stalled.Load(),
	}
	for i := range c.shards {
		sh := &c.shards[i]
		for k := range sh.answers {
			st.Answers[k] += sh.answers[k].Load()
		}
		st.Bytes += sh.bytes.Load()
		st.Lent += sh.lent.Load()
	}
	return st
}
