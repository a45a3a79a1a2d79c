package consensus

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"shoal.dev/shoal/internal/store"
)

// BenchmarkPropose writes records of about 1 KB with 64 writers, each waiting for its write.
func BenchmarkPropose(b *testing.B) {
	for _, n := range []int{1, 3} {
		for _, writers := range []int{1, 64} {
			b.Run(fmt.Sprintf("managers=%d/writers=%d", n, writers), func(b *testing.B) {
				ms := group(b, n, func(c *Config) { c.Tuning = Tuning{} })
				var next atomic.Int64
				var wg sync.WaitGroup
				began := time.Now()
				b.ResetTimer()
				for range writers {
					wg.Go(func() {
						for {
							i := next.Add(1)
							if i > int64(b.N) {
								return
							}
							k := task(fmt.Sprintf("%s-%d", b.Name(), i))
							k.Spec.ContainerSpec = nil
							k.Annotations.Labels = map[string]string{"pad": string(make([]byte, 700))}
							_, err := ms[0].store.Update(b.Context(), func(tx *store.Tx) error { tx.Write(store.Create(k)); return nil })
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "writes/s")
			})
		}
	}
}

// BenchmarkReadIndex asks with 64 readers.
func BenchmarkReadIndex(b *testing.B) {
	ms := group(b, 3, func(c *Config) { c.Tuning = Tuning{} })
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := ms[0].ReadIndex(b.Context()); err != nil {
				b.Error(err)
			}
		}
	})
}
