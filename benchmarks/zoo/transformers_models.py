"""Small models of the package transformers, by their configurations."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

WIDTH = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def _vit(classes: int) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(image_size=64, patch_size=8, num_labels=classes, **WIDTH)
    )


def _deit(classes: int) -> nn.Module:
    from transformers import DeiTConfig, DeiTForImageClassification

    return DeiTForImageClassification(
        DeiTConfig(image_size=64, patch_size=8, num_labels=classes, **WIDTH)
    )


def _dino(classes: int) -> nn.Module:
    from transformers import Dinov2Config, Dinov2ForImageClassification

    config: dict[str, Any] = {k: v for k, v in WIDTH.items() if k != "intermediate_size"}
    return Dinov2ForImageClassification(
        Dinov2Config(image_size=64, patch_size=8, num_labels=classes, **config)
    )


def _mobilevit(classes: int) -> nn.Module:
    from transformers import MobileViTConfig, MobileViTForImageClassification

    return MobileViTForImageClassification(
        MobileViTConfig(
            image_size=64,
            hidden_sizes=[48, 64, 80],
            neck_hidden_sizes=[16, 16, 24, 32, 48, 64, 128],
            num_labels=classes,
        )
    )


def _mobilenet(classes: int) -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    return MobileNetV2ForImageClassification(
        MobileNetV2Config(image_size=64, depth_multiplier=0.35, num_labels=classes)
    )


def _resnet(classes: int) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=16,
            hidden_sizes=[16, 32, 64],
            depths=[1, 1, 1],
            layer_type="basic",
            num_labels=classes,
        )
    )


def _convnext(classes: int) -> nn.Module:
    from transformers import ConvNextV2Config, ConvNextV2ForImageClassification

    return ConvNextV2ForImageClassification(
        ConvNextV2Config(
            image_size=64,
            hidden_sizes=[16, 32, 64, 128],
            depths=[1, 1, 2, 1],
            num_labels=classes,
        )
    )


def _swin(classes: int) -> nn.Module:
    from transformers import SwinConfig, SwinForImageClassification

    return SwinForImageClassification(
        SwinConfig(
            image_size=64,
            window_size=4,
            embed_dim=32,
            depths=[1, 1, 2],
            num_heads=[1, 2, 4],
            num_labels=classes,
        )
    )


def _segformer(classes: int) -> nn.Module:
    from transformers import SegformerConfig, SegformerForImageClassification

    return SegformerForImageClassification(
        SegformerConfig(hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], num_labels=classes)
    )


def _spectrogram(classes: int) -> nn.Module:
    from transformers import ASTConfig, ASTForAudioClassification

    return ASTForAudioClassification(
        ASTConfig(num_mel_bins=64, max_length=96, num_labels=classes, **WIDTH)
    )


def _wav2vec(classes: int) -> nn.Module:
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    return Wav2Vec2ForSequenceClassification(
        Wav2Vec2Config(
            conv_dim=[32] * 7,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            classifier_proj_size=32,
            num_labels=classes,
            **WIDTH,
        )
    )


def _hubert(classes: int) -> nn.Module:
    from transformers import HubertConfig, HubertForSequenceClassification

    return HubertForSequenceClassification(
        HubertConfig(
            conv_dim=[32] * 7,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            classifier_proj_size=32,
            num_labels=classes,
            **WIDTH,
        )
    )


def _whisper(classes: int) -> nn.Module:
    from transformers import WhisperConfig, WhisperForAudioClassification

    return WhisperForAudioClassification(
        WhisperConfig(
            d_model=64,
            encoder_layers=2,
            encoder_attention_heads=4,
            encoder_ffn_dim=128,
            decoder_layers=1,
            decoder_attention_heads=4,
            decoder_ffn_dim=128,
            max_source_positions=50,
            num_mel_bins=40,
            vocab_size=100,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            num_labels=classes,
        )
    )


def _time_series(classes: int) -> nn.Module:
    from transformers import PatchTSTConfig, PatchTSTForClassification

    class Logits(nn.Module):
        """Its answer is called `prediction_logits`."""

        def __init__(self) -> None:
            super().__init__()
            self.model = PatchTSTForClassification(
                PatchTSTConfig(
                    num_input_channels=6,
                    context_length=128,
                    patch_length=16,
                    patch_stride=8,
                    d_model=32,
                    num_attention_heads=4,
                    num_hidden_layers=2,
                    ffn_dim=64,
                    num_targets=classes,
                    use_cls_token=True,
                )
            )

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.model(past_values=x).prediction_logits
            return logits

    return Logits()


def _bert(classes: int) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(vocab_size=TOKENS, max_position_embeddings=32, num_labels=classes, **WIDTH)
    )


PICTURE, WAVE, TOKENS = (3, 64, 64), (16000,), 100
MODELS: tuple[tuple[Any, ...], ...] = (
    ("ViTForImageClassification", PICTURE, _vit),
    ("DeiTForImageClassification", PICTURE, _deit),
    ("Dinov2ForImageClassification", PICTURE, _dino),
    ("MobileViTForImageClassification", PICTURE, _mobilevit),
    ("MobileNetV2ForImageClassification", PICTURE, _mobilenet),
    ("ResNetForImageClassification", PICTURE, _resnet),
    ("ConvNextV2ForImageClassification", PICTURE, _convnext),
    ("SwinForImageClassification", PICTURE, _swin),
    ("SegformerForImageClassification", PICTURE, _segformer),
    ("ASTForAudioClassification", (96, 64), _spectrogram),
    ("Wav2Vec2ForSequenceClassification", WAVE, _wav2vec),
    ("HubertForSequenceClassification", WAVE, _hubert),
    ("WhisperForAudioClassification", (40, 100), _whisper),
    ("PatchTSTForClassification", (128, 6), _time_series),
    ("BertForSequenceClassification", (32,), _bert, "classes", TOKENS),
)
