package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/containerd/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/kata-cc/kata-cc/tardev/snapshotter"
)

// metrics serves what Prometheus asks for.
type metrics struct {
	server *http.Server // nil if nobody is to ask
	done   chan struct{}
}

const namespace = "tardev_snapshotter"

var (
	layersDesc    = prometheus.NewDesc(namespace+"_layers", "Layer files on disk.", nil, nil)
	bytesDesc     = prometheus.NewDesc(namespace+"_layer_bytes", "Bytes that the layer files take.", nil, nil)
	snapshotsDesc = prometheus.NewDesc(namespace+"_snapshots", "Snapshots by kind.", []string{"kind"}, nil)
)

// totals is a collector that looks when it is asked.
type totals struct{ sn *snapshotter.Snapshotter }

func (totals) Describe(to chan<- *prometheus.Desc) {
	to <- layersDesc
	to <- bytesDesc
	to <- snapshotsDesc
}

func (c totals) Collect(to chan<- prometheus.Metric) {
	t, err := c.sn.Totals()
	if err != nil {
		to <- prometheus.NewInvalidMetric(layersDesc, err)
		return
	}
	to <- prometheus.MustNewConstMetric(layersDesc, prometheus.GaugeValue, float64(t.Layers))
	to <- prometheus.MustNewConstMetric(bytesDesc, prometheus.GaugeValue, float64(t.Bytes))
	for kind, n := range t.Snapshots {
		to <- prometheus.MustNewConstMetric(snapshotsDesc, prometheus.GaugeValue, float64(n), strings.ToLower(kind.String()))
	}
}

// startMetrics serves metrics of sn at an address: host:port, or the path of a
// unix socket. It is called before sn is used.
func startMetrics(ctx context.Context, address string, sn *snapshotter.Snapshotter) (*metrics, error) {
	if address == "" {
		return new(metrics), nil
	}
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: namespace + "_conversion_seconds", Help: "Time to turn a layer into a layer file.",
		Buckets: prometheus.ExponentialBuckets(0.05, 2, 12),
	})
	bytes := prometheus.NewCounter(prometheus.CounterOpts{
		Name: namespace + "_converted_bytes_total", Help: "Bytes of the layer files that were made.",
	})
	failures := prometheus.NewCounter(prometheus.CounterOpts{
		Name: namespace + "_conversion_failures_total", Help: "Layers of which no layer file could be made.",
	})
	sn.OnConversion(func(c snapshotter.Conversion) {
		if c.Err != nil {
			failures.Inc()
			return
		}
		seconds.Observe(c.Duration.Seconds())
		bytes.Add(float64(c.Size))
	})
	r := prometheus.NewRegistry()
	r.MustRegister(seconds, bytes, failures, totals{sn}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	l, err := listenMetrics(address)
	if err != nil {
		return nil, fmt.Errorf("metrics at %s: %w", address, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorLog: log.G(ctx), Timeout: metricsTimeout}))
	m := &metrics{server: &http.Server{Handler: mux, ReadHeaderTimeout: metricsTimeout}, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		if err := m.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.G(ctx).WithError(err).Error("metrics are no longer served")
		}
	}()
	return m, nil
}

func listenMetrics(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok || strings.HasPrefix(address, "/") {
		return listen(path)
	}
	return net.Listen("tcp", address)
}

// stop ends the server; a request under way has a little time.
func (m *metrics) stop() {
	if m.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), metricsTimeout)
	defer cancel()
	if err := m.server.Shutdown(ctx); err != nil {
		log.G(ctx).WithError(err).Warn("metrics are broken off")
		_ = m.server.Close()
	}
	<-m.done
}
