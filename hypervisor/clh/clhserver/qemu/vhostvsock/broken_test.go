package vhostvsock

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestBrokenRingsEndTheDevice(t *testing.T) {
	for name, breakIt := range map[string]func(g *guest){
		"no such descriptor": func(g *guest) { g.publish(tx, ringSize) },
		"no such next": func(g *guest) {
			g.describe(tx, 0, address(tx, 0), packetSize, descNext, ringSize+1)
			g.publish(tx, 0)
		},
		"a loop": func(g *guest) {
			g.describe(tx, 0, address(tx, 0), packetSize, descNext, 1)
			g.describe(tx, 1, address(tx, 1), packetSize, descNext, 0)
			g.publish(tx, 0)
		},
		"outside memory": func(g *guest) {
			g.describe(tx, 0, memorySize-8, packetSize, 0, 0)
			g.publish(tx, 0)
		},
		"far outside memory": func(g *guest) {
			g.describe(tx, 0, ^uint64(7), packetSize, 0, 0)
			g.publish(tx, 0)
		},
		"indirect": func(g *guest) {
			g.describe(tx, 0, address(tx, 0), packetSize, 4, 0)
			g.publish(tx, 0)
		},
		"short packet": func(g *guest) {
			g.describe(tx, 0, address(tx, 0), packetSize-1, 0, 0)
			g.publish(tx, 0)
		},
		"less data than said": func(g *guest) {
			copy(g.buffer(tx, 0), packet{length: 5}.append(nil))
			g.describe(tx, 0, address(tx, 0), packetSize+4, 0, 0)
			g.publish(tx, 0)
		},
		"more data than may be": func(g *guest) {
			copy(g.buffer(tx, 0), packet{length: 1 << 31}.append(nil))
			g.describe(tx, 0, address(tx, 0), packetSize, 0, 0)
			g.publish(tx, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := running(t)
			client, _ := g.connected()
			breakIt(g)
			select {
			case <-g.device.Done():
			case <-time.After(10 * time.Second):
				t.Fatal("the device goes on")
			}
			if err := g.device.Err(); err == nil || !strings.Contains(err.Error(), "the guest's ring") {
				t.Errorf("error %v, want one of the guest's ring", err)
			}
			wantEnd(t, client, "")
		})
	}
}

func TestBrokenMessagesEndTheDevice(t *testing.T) {
	for name, b := range map[string][]byte{
		"wrong version":      u32s(getFeatures, 2, 0),
		"a reply":            u32s(getFeatures, flagVersion|flagReply, 0),
		"too long":           u32s(getFeatures, flagVersion, maxPayload+1),
		"unknown":            u32s(99, flagVersion, 0),
		"cut short":          append(u32s(setFeatures, flagVersion, 4), 0, 0, 0, 0),
		"no such ring":       append(u32s(setVringNum, flagVersion, 8), u32s(2, 16)...),
		"ring of no size":    append(u32s(setVringNum, flagVersion, 8), u32s(0, 0)...),
		"ring nowhere":       append(u32s(setVringAddr, flagVersion, 40), make([]byte, 40)...),
		"kick without file":  append(u32s(setVringKick, flagVersion, 8), u64s(0)...),
		"memory without any": append(u32s(setMemTable, flagVersion, 8), u32s(1, 0)...),
		"other part of configuration": append(u32s(getConfig, flagVersion, 16),
			append(u32s(8, 4, 0), make([]byte, 4)...)...),
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			if _, err := g.conn.Write(b); err != nil {
				t.Fatal(err)
			}
			select {
			case <-g.device.Done():
			case <-time.After(10 * time.Second):
				t.Fatal("the device goes on")
			}
			if err := g.device.Err(); err == nil || errors.Is(err, ErrHungUp) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestQEMUHangsUp(t *testing.T) {
	g := running(t)
	client, _ := g.connected()
	g.conn.Close()
	<-g.device.Done()
	if err := g.device.Err(); !errors.Is(err, ErrHungUp) {
		t.Errorf("error %v, want %v", err, ErrHungUp)
	}
	wantEnd(t, client, "")
}

func TestSocketThatExists(t *testing.T) {
	g := newGuest(t)
	_, err := New(nil, Options{CID: guestCID, Socket: g.socket})
	if err == nil || !strings.Contains(err.Error(), g.socket) {
		t.Errorf("error %v, want one that names the socket", err)
	}
}
