package follow

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	roundsDesc    = desc("rounds_total", "Rounds of following an upstream, by how they ended: done or failed.", "result")
	publishedDesc = desc("published_total", "Items taken from an upstream and published.")
	refusedDesc   = desc("refused_total", "Items of an upstream that were not taken, counted in each round.")
	bytesDesc     = desc("nar_bytes_total", "Bytes of the nars taken from an upstream, uncompressed.")
	owedDesc      = desc("owed", "Items of an upstream that could not be taken in the last round.")
	ageDesc       = desc("age_seconds", "How long ago the last round began that ended well.")
	runningDesc   = desc("running", "1 while a round is under way.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("narfold_upstream_"+name, help, append([]string{"upstream"}, labels...), nil)
}

// Metrics collects the Stats of followers, of upstreams with different names.
type Metrics []*Follower

// Describe implements prometheus.Collector.
func (Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{roundsDesc, publishedDesc, refusedDesc, bytesDesc, owedDesc, ageDesc, runningDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, f := range m {
		s := f.Stats()
		count := func(d *prometheus.Desc, v uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{s.Upstream}, labels...)...)
		}
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, s.Upstream)
		}
		count(roundsDesc, s.Rounds, "done")
		count(roundsDesc, s.Failed, "failed")
		count(publishedDesc, s.Published)
		count(refusedDesc, s.Refused)
		count(bytesDesc, s.NarBytes)
		gauge(owedDesc, float64(s.Owed))
		if !s.Last.IsZero() {
			gauge(ageDesc, time.Since(s.Last).Seconds())
		}
		running := 0.0
		if s.Running {
			running = 1
		}
		gauge(runningDesc, running)
	}
}
