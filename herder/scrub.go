package herder

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"narfold/herder/check"
	"narfold/herder/serve"
	"narfold/internal/objstore"
)

var (
	checkedDesc     = describe("check_ended_timestamp_seconds", "When the last check of everything ended, as Unix time; 0 before the first.")
	checkedWellDesc = describe("check_complete", "1 if the last check came to its end.")
	foundDesc       = describe("check_found", "What the last check found, by kind; missing, size, corrupt and open are damage.", "kind")
	expandedDesc    = describe("check_expanded_total", "Objects that were read, expanded and hashed by checks.")
	quarantineDesc  = describe("quarantine", "Objects that are not served, because they were found damaged.")
)

// scrubbing lets everything be checked again and again, says what is found, and keeps what is damaged from being served.
type scrubbing struct {
	scrub      *check.Scrub
	quarantine *serve.Quarantine
	log        *slog.Logger

	mu       sync.Mutex
	ended    time.Time
	complete bool
	found    map[check.Kind]int64
	expanded int64
}

func newScrubbing(s *check.Scrub, q *serve.Quarantine, log *slog.Logger) *scrubbing {
	b := &scrubbing{scrub: s, quarantine: q, log: log}
	s.Told = b.told
	return b
}

func (b *scrubbing) run(ctx context.Context) error { return b.scrub.Run(ctx) }

// told takes what a check found. One that broke off lets nothing out of quarantine: what it did not come to is not known to be whole.
func (b *scrubbing) told(r check.Report, err error) {
	var damaged []objstore.Key
	for _, f := range r.Findings {
		if f.Kind.Damage() {
			b.log.Error("damage found", "kind", f.Kind, "object", f.Key, "items", f.Items, "detail", f.Detail, "next", "narfold repair")
		}
		if f.Key != "" && f.Kind.Damage() {
			damaged = append(damaged, f.Key)
		}
	}
	if err != nil {
		b.log.Warn("check broke off", "error", err, "expanded", r.Expanded)
		damaged = append(damaged, b.quarantine.Keys()...)
	} else {
		b.log.Info("check ended", "objects", r.Objects, "expanded", r.Expanded, "damage", r.Damage(), "unaccounted", r.Found[check.Unaccounted], "seconds", r.Seconds)
	}
	b.quarantine.Set(damaged)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended, b.complete, b.found = time.Now(), err == nil, r.Found
	b.expanded += r.Expanded
}

// Describe implements prometheus.Collector.
func (b *scrubbing) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{checkedDesc, checkedWellDesc, foundDesc, expandedDesc, quarantineDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (b *scrubbing) Collect(ch chan<- prometheus.Metric) {
	b.mu.Lock()
	defer b.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	ended, complete := 0.0, 0.0
	if !b.ended.IsZero() {
		ended = float64(b.ended.Unix())
	}
	if b.complete {
		complete = 1
	}
	gauge(checkedDesc, ended)
	gauge(checkedWellDesc, complete)
	for _, k := range check.Kinds {
		gauge(foundDesc, float64(b.found[k]), string(k))
	}
	ch <- prometheus.MustNewConstMetric(expandedDesc, prometheus.CounterValue, float64(b.expanded))
	gauge(quarantineDesc, float64(b.quarantine.Len()))
}
