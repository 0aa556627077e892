package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// slack is how many bytes of garbage a herder may have before it is collected, if what it needs is more than that. By default there is as
	// much garbage as what is needed: hundreds of megabytes where millions of items are remembered.
	slack = 96 << 20
	// leastSlack is the least percentage of garbage, so that collecting does not take too much time: what is remembered has few pointers.
	leastSlack = 15
	// heapEvery is how often what is needed is looked at.
	heapEvery = 30 * time.Second
)

// boundGarbage lets the collector run early enough while a large catalogue is in memory, until ctx ends. What the operator says with GOGC is
// left as it is.
func boundGarbage(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	tick := time.NewTicker(heapEvery)
	defer tick.Stop()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for {
		select {
		case <-tick.C:
			metrics.Read(live)
			debug.SetGCPercent(garbagePercent(live[0].Value.Uint64()))
		case <-ctx.Done():
			return
		}
	}
}

// garbagePercent is how much garbage there may be beside so many bytes that are needed.
func garbagePercent(live uint64) int {
	if live <= slack {
		return 100
	}
	return max(leastSlack, int(100*slack/live))
}
