;; Rows times the transpose of a matrix, in float64, two numbers at a time. products.js calls it, and holds these bytes
;; as wat2wasm of wabt writes them:
;;
;;     wat2wasm products.wat --output=- | base64 --wrap=0
;;
;; Tiles of four rows and four columns, as in products.js: each sum is formed in the order of its terms, so that both
;; give the same bits.
(module
  (memory (export "memory") 0)

  ;; rows: (count, length) float64. panel: four rows of the matrix, side by side: (length, 4). result: the first of four
  ;; columns of (count, length). length and count are at least 4. All three are addresses.
  (func (export "multiplyPanel") (param $rows i32) (param $count i32) (param $length i32) (param $panel i32) (param $result i32)
    (local $stride i32) (local $r i32) (local $last i32) (local $end i32)
    (local $u0 i32) (local $u1 i32) (local $u2 i32) (local $u3 i32) (local $m i32) (local $u v128) (local $v v128) (local $w v128)
    (local $a v128) (local $b v128) (local $c v128) (local $d v128) (local $e v128) (local $f v128) (local $g v128) (local $h v128)
    (local.set $stride (i32.shl (local.get $length) (i32.const 3)))
    (local.set $last (i32.sub (local.get $count) (i32.const 4)))
    (loop $tiles
      (local.set $u0 (i32.add (local.get $rows) (i32.mul (local.get $r) (local.get $stride))))
      (local.set $u1 (i32.add (local.get $u0) (local.get $stride)))
      (local.set $u2 (i32.add (local.get $u1) (local.get $stride)))
      (local.set $u3 (i32.add (local.get $u2) (local.get $stride)))
      (local.set $end (local.get $u1))
      (local.set $m (local.get $panel))
      (local.set $a (v128.const i64x2 0 0)) (local.set $b (v128.const i64x2 0 0))
      (local.set $c (v128.const i64x2 0 0)) (local.set $d (v128.const i64x2 0 0))
      (local.set $e (v128.const i64x2 0 0)) (local.set $f (v128.const i64x2 0 0))
      (local.set $g (v128.const i64x2 0 0)) (local.set $h (v128.const i64x2 0 0))
      (loop $terms
        (local.set $v (v128.load (local.get $m)))
        (local.set $w (v128.load offset=16 (local.get $m)))
        (local.set $u (v128.load64_splat (local.get $u0)))
        (local.set $a (f64x2.add (local.get $a) (f64x2.mul (local.get $u) (local.get $v))))
        (local.set $b (f64x2.add (local.get $b) (f64x2.mul (local.get $u) (local.get $w))))
        (local.set $u (v128.load64_splat (local.get $u1)))
        (local.set $c (f64x2.add (local.get $c) (f64x2.mul (local.get $u) (local.get $v))))
        (local.set $d (f64x2.add (local.get $d) (f64x2.mul (local.get $u) (local.get $w))))
        (local.set $u (v128.load64_splat (local.get $u2)))
        (local.set $e (f64x2.add (local.get $e) (f64x2.mul (local.get $u) (local.get $v))))
        (local.set $f (f64x2.add (local.get $f) (f64x2.mul (local.get $u) (local.get $w))))
        (local.set $u (v128.load64_splat (local.get $u3)))
        (local.set $g (f64x2.add (local.get $g) (f64x2.mul (local.get $u) (local.get $v))))
        (local.set $h (f64x2.add (local.get $h) (f64x2.mul (local.get $u) (local.get $w))))
        (local.set $m (i32.add (local.get $m) (i32.const 32)))
        (local.set $u1 (i32.add (local.get $u1) (i32.const 8)))
        (local.set $u2 (i32.add (local.get $u2) (i32.const 8)))
        (local.set $u3 (i32.add (local.get $u3) (i32.const 8)))
        (br_if $terms (i32.lt_u (local.tee $u0 (i32.add (local.get $u0) (i32.const 8))) (local.get $end))))
      (local.set $u0 (i32.add (local.get $result) (i32.mul (local.get $r) (local.get $stride))))
      (v128.store (local.get $u0) (local.get $a))
      (v128.store offset=16 (local.get $u0) (local.get $b))
      (local.set $u0 (i32.add (local.get $u0) (local.get $stride)))
      (v128.store (local.get $u0) (local.get $c))
      (v128.store offset=16 (local.get $u0) (local.get $d))
      (local.set $u0 (i32.add (local.get $u0) (local.get $stride)))
      (v128.store (local.get $u0) (local.get $e))
      (v128.store offset=16 (local.get $u0) (local.get $f))
      (local.set $u0 (i32.add (local.get $u0) (local.get $stride)))
      (v128.store (local.get $u0) (local.get $g))
      (v128.store offset=16 (local.get $u0) (local.get $h))
      ;; where the count leaves a rest, the last tile overlaps the one before
      (if (i32.lt_u (local.get $r) (local.get $last))
        (then
          (local.set $r (i32.add (local.get $r) (i32.const 4)))
          (if (i32.gt_u (local.get $r) (local.get $last)) (then (local.set $r (local.get $last))))
          (br $tiles))))))
