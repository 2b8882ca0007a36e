package agentclient

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
)

func message(stream uint32, length int) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(length))
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(append(b, 1, 0), make([]byte, length)...)
}

// FuzzHeads cuts a stream of messages anywhere: the same heads are found.
func FuzzHeads(f *testing.F) {
	f.Add([]byte{3, 0, 200, 10}, uint8(7))
	f.Add([]byte{}, uint8(1))
	f.Fuzz(func(t *testing.T, lengths []byte, cut uint8) {
		var all []byte
		var want []uint32
		for i, n := range lengths {
			all = append(all, message(uint32(2*i+1), int(n))...)
			want = append(want, uint32(2*i+1))
		}
		var h heads
		var got []uint32
		for part := range slices.Chunk(all, int(cut)+1) {
			if err := h.each(part, func(stream uint32) error { got = append(got, stream); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("messages of lengths %v cut at %d: streams %v", lengths, cut, got)
		}
	})
}

func TestAnswerThatNobodyAskedForEndsTheConnection(t *testing.T) {
	for name, answers := range map[string][]uint32{"never asked": {1, 5}, "answered twice": {1, 3, 3}} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			a := newAsked(near)
			defer a.Close()
			go func() {
				_, _ = io.CopyN(io.Discard, far, 2*headLength)
				for _, stream := range answers {
					_, _ = far.Write(message(stream, 0)) // the last one is not taken
				}
			}()
			for _, stream := range []uint32{1, 3} {
				if _, err := a.Write(message(stream, 0)); err != nil {
					t.Fatal(err)
				}
			}
			buf := make([]byte, headLength)
			for range answers[:len(answers)-1] {
				if _, err := io.ReadFull(a, buf); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := io.ReadFull(a, buf); !errdefs.IsDataLoss(err) {
				t.Errorf("the last answer is read with %v", err)
			}
		})
	}
}
