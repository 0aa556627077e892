package herder

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"narfold/herder/serve"
	"narfold/herder/upload"
	"narfold/internal/httpfront"
)

// collector reads the counters of the parts when somebody asks, so that counting costs the hot path one addition.
type collector struct {
	server    *switchboard
	front     *httpfront.Server
	catalogue serve.Catalogue
	uploads   *upload.Uploads
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("narfold_"+name, help, labels, nil)
}

var (
	requestsDesc    = describe("requests_total", "Requests answered, by what was asked for and what became of it.", "kind", "result")
	answersDesc     = describe("front_answers_total", "Answers of the fast path, by the first digit of the status.", "class")
	sentDesc        = describe("front_sent_bytes_total", "Bytes sent by the fast path, headers included.")
	lentDesc        = describe("front_handed_over_total", "Requests that the fast path left to the general one.")
	connsDesc       = describe("front_connections", "Open connections.")
	acceptedDesc    = describe("front_accepted_total", "Connections accepted.")
	cutDesc         = describe("front_cut_total", "Connections cut, by reason.", "reason")
	itemsDesc       = describe("items", "Published store items.")
	waitingDesc     = describe("items_waiting", "Items that wait for references.")
	objectBytesDesc = describe("object_bytes", "Bytes of all compressed nars.")
	narBytesDesc    = describe("nar_bytes", "Bytes of all nars, uncompressed.")
	uploadsDesc     = describe("uploads_open", "Keys handed out and not published.")
	refusedDesc     = describe("uploads_refused_total", "Uploads turned away, by reason: full (no room, 507), busy (a few at a time while room is scarce, 429).", "reason")
	freeDesc        = describe("room_free_bytes", "Bytes free on the file systems of the deployment, where the least is.")
	reserveDesc     = describe("room_reserve_bytes", "Bytes that uploads leave free; they are slowed below twice as much.")
	readableDesc    = describe("catalogue_readable", "1 if the catalogue could be read just now.")
)

// Describe implements prometheus.Collector. It asks nobody: a large catalogue takes its time to be counted, and a herder is to serve
// before that.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{requestsDesc, answersDesc, sentDesc, lentDesc, connsDesc, acceptedDesc, cutDesc, itemsDesc, waitingDesc,
		objectBytesDesc, narBytesDesc, uploadsDesc, refusedDesc, freeDesc, reserveDesc, readableDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	s := c.server.counters()
	count(requestsDesc, float64(s.NarinfoHits), "narinfo", "hit")
	count(requestsDesc, float64(s.NarinfoMisses), "narinfo", "miss")
	count(requestsDesc, float64(s.Nars), "nar", "served")
	count(requestsDesc, float64(s.Redirects), "nar", "redirected")
	count(requestsDesc, float64(s.Files), "file", "served")
	f := c.front.Stats()
	for i, n := range f.Answers {
		count(answersDesc, float64(n), strconv.Itoa(i)+"xx")
	}
	count(sentDesc, float64(f.Bytes))
	count(lentDesc, float64(f.Lent))
	count(acceptedDesc, float64(f.Accepted))
	gauge(connsDesc, float64(f.Open))
	for reason, n := range map[string]uint64{"refused": f.Refused, "evicted": f.Evicted, "slow": f.Slow, "stalled": f.Stalled} {
		count(cutDesc, float64(n), reason)
	}
	room, refused, err := c.uploads.Room()
	if err == nil {
		gauge(freeDesc, float64(room.Free))
	}
	gauge(reserveDesc, float64(c.uploads.Reserve))
	count(refusedDesc, float64(refused.Full), "full")
	count(refusedDesc, float64(refused.Busy), "busy")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	counts, err := c.catalogue.Counts(ctx)
	if err != nil {
		gauge(readableDesc, 0)
		return
	}
	gauge(readableDesc, 1)
	gauge(itemsDesc, float64(counts.Items))
	gauge(waitingDesc, float64(counts.Waiting))
	gauge(objectBytesDesc, float64(counts.Bytes))
	gauge(narBytesDesc, float64(counts.NarBytes))
	gauge(uploadsDesc, float64(counts.Uploads))
}
