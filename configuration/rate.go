package configuration

// rate turns bits into bytes.
func rate(bits, bitsBurst, ops, opsBurst uint64) Rate {
	return Rate{Bytes: bits / 8, BytesBurst: bitsBurst / 8, Ops: ops, OpsBurst: opsBurst}
}

// maxBits keeps what the VMM multiplies from running over.
const maxBits = 1 << 50

func checkRates(h clhTable) []rule {
	var rules []rule
	for _, r := range []struct {
		name        string
		rate, burst uint64
	}{
		{"disk_rate_limiter_bw", h.DiskBandwidth, h.DiskBandwidthBurst}, {"disk_rate_limiter_ops", h.DiskOps, h.DiskOpsBurst},
		{"net_rate_limiter_bw", h.NetBandwidth, h.NetBandwidthBurst}, {"net_rate_limiter_ops", h.NetOps, h.NetOpsBurst},
	} {
		rules = append(rules,
			rule{r.burst > 0 && r.rate == 0, r.name + "_one_time_burst needs " + r.name + "_max_rate"},
			rule{r.rate > maxBits || r.burst > maxBits, r.name + "_max_rate or _one_time_burst is too large"})
	}
	for _, r := range []struct {
		name string
		bits uint64
	}{{"disk_rate_limiter_bw_max_rate", h.DiskBandwidth}, {"net_rate_limiter_bw_max_rate", h.NetBandwidth}} {
		rules = append(rules, rule{r.bits > 0 && r.bits < 8, r.name + " is less than a byte per second"})
	}
	return rules
}
