package main

import (
	"runtime/metrics"
	"testing"
)

func TestALargeHeapHasLittleGarbage(t *testing.T) {
	for live, want := range map[uint64]int{0: 100, 10 << 20: 100, slack: 100, 2 * slack: 50, 350 << 20: 27, 10 << 30: leastSlack} {
		if got := garbagePercent(live); got != want {
			t.Errorf("beside %d MiB: %d%%, want %d%%", live>>20, got, want)
		}
	}
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	if metrics.Read(sample); sample[0].Value.Kind() != metrics.KindUint64 {
		t.Error("this Go does not tell what is live")
	}
}
