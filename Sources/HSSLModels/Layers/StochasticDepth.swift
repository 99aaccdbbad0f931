import HSSLGraph

/// Which residual branches of which samples are dropped in one forward pass.
///
/// Rates rise linearly from 0 to `rate` over all blocks of base and auxiliary head; kept branches are divided by the
/// keep probability. A draw depends on (seed, step, sample, block, branch) only, so the split into micro-batches does
/// not change it. Source: Huang et al., "Deep networks with stochastic depth", ECCV 2016; per sample as timm's
/// `DropPath`.
package struct StochasticDepth {
    package let rate: Float
    package let blocks: Int
    package let seed: UInt64
    package let step: Int
    /// Identity of every sample of the batch (view and image), independent of where the micro-batch cuts.
    package let samples: [Int]

    package init(rate: Float, blocks: Int, seed: UInt64, step: Int, samples: [Int]) {
        self.rate = rate
        self.blocks = blocks
        self.seed = seed
        self.step = step
        self.samples = samples
    }

    /// Drop probability of a block.
    package func rate(block: Int) -> Float { blocks > 1 ? rate * Float(block) / Float(blocks - 1) : 0 }

    /// For each sample 0 (dropped) or 1/keep; nil where nothing can be dropped.
    package func scale(block: Int, branch: Int) -> [Float]? {
        let drop = rate(block: block)
        guard drop > 0 else { return nil }
        return samples.map { sample in
            var random = CounterRandom(
                seed: seed, stream: 0x4450, UInt64(step), UInt64(sample), UInt64(block), UInt64(branch))
            return random.uniform() < drop ? 0 : 1 / (1 - drop)
        }
    }
}
