"""temporary"""
def topk_correct(logits, labels, k):
    return (logits.topk(min(k, logits.shape[1]), dim=1).indices == labels[:, None]).any(1)
def wilson_interval(errors, count, confidence=0.95): return (0.0, 1.0)
def expected_calibration_error(p, c, bins=15): return 0.0
