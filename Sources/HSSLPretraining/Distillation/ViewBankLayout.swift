import HSSLFormats
import HSSLModels

/// The sizes of a view bank: what tensors each of its shards has follows from them.
package struct ViewBankLayout: Equatable, Sendable {
    /// Images of the data set.
    package var images: Int
    /// Draws an image, K.
    package var draws: Int
    /// Channels of a global feature.
    package var width: Int
    /// The teacher's.
    package var grid: Grid
    /// Coordinates of a cell; 0: no cells are kept; `width`: they are kept as they are.
    package var rank: Int
    package var imagesPerShard: Int

    /// - Parameters:
    ///   - rank: as in the recipe: 0 keeps cells as they are.
    ///   - imagesPerShard: nil: as many as take about 8 MB, so that little is lost with a killed writer.
    init(images: Int, draws: Int, width: Int, grid: Grid, rank: Int, cells: Bool, imagesPerShard: Int? = nil) {
        (self.images, self.draws, self.width, self.grid) = (images, draws, width, grid)
        self.rank = !cells ? 0 : rank == 0 ? width : min(rank, width)
        self.imagesPerShard = 1
        self.imagesPerShard = imagesPerShard ?? max(1, min(256, (8 << 20) / (draws * viewBytes)))
    }

    /// Whether cells are coordinates in a basis of the bank's own.
    var hasBasis: Bool { rank > 0 && rank < width }

    /// Codes of a view's cells.
    var cellCodes: Int { grid.count * rank }

    /// Bytes of what is kept of a view: codes, and a scale for the global feature and one for the cells.
    package var viewBytes: Int { width + 4 + (rank > 0 ? cellCodes + 4 : 0) }

    package var shards: Int { (images + imagesPerShard - 1) / imagesPerShard }

    func images(ofShard shard: Int) -> Range<Int> {
        shard * imagesPerShard..<min((shard + 1) * imagesPerShard, images)
    }

    func shard(ofImage image: Int) -> Int { image / imagesPerShard }

    /// `shard-00042.safetensors`.
    static func fileName(ofShard shard: Int) -> String {
        let digits = "\(shard)"
        return "shard-\(String(repeating: "0", count: max(0, 5 - digits.count)))\(digits).safetensors"
    }

    // MARK: JSON

    private static let context = "views"

    var json: JSONObject {
        [
            "images": .integer(images), "draws": .integer(draws), "width": .integer(width),
            "grid": .array([.integer(grid.height), .integer(grid.width)]), "rank": .integer(rank),
            "images_per_shard": .integer(imagesPerShard),
        ]
    }

    /// - Throws: for what is missing or out of range; no product of sizes in range overflows.
    init(json: JSONValue) throws {
        let context = Self.context
        try json.requireKeys(
            among: ["images", "draws", "width", "grid", "rank", "images_per_shard"], in: context)
        let sides = try json.integers("grid", in: context)
        guard sides.count == 2, sides.allSatisfy({ (1...65_536).contains($0) }), sides[0] * sides[1] <= 65_536 else {
            throw PretrainingError("\(context): 'grid' must be [height, width] of at most 65536 cells")
        }
        grid = Grid(height: sides[0], width: sides[1])
        images = try json.integer("images", in: context, range: 1...1 << 31)
        draws = try json.integer("draws", in: context, range: 1...Self.mostDraws)
        width = try json.integer("width", in: context, range: 1...16_384)
        rank = try json.integer("rank", in: context, range: 0...width)
        imagesPerShard = try json.integer("images_per_shard", in: context, range: 1...65_536)
    }

    package static let mostDraws = 4096
}
